"""Training: one loop for tokenizers and priors, built on Accelerate."""
