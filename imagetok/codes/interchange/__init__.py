"""Codes in other formats (parquet, .npy), and back to code datasets."""
