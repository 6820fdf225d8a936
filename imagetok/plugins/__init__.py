"""Custom parts without a fork: their registry, their loading, and what artifacts record of them."""
