"""The cells of the papers' tables and figures, with the numbers that the papers report."""
