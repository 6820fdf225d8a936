"""Tokenizers of other programs as artifacts of ours."""
