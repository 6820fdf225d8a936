"""What joins measures and pages: collapse diagnosis, uncertainty, latent space, reports of runs."""
