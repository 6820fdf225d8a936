"""Analyses with their pages: codebook diagnosis, uncertainty, latent space, reports of runs."""
