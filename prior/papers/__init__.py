"""Reproducing the tables and figures of papers: `prior.reproduce`."""
