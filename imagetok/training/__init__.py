"""Training: one loop for tokenizers and priors, on Accelerate."""
