"""Published protocols of measuring samples."""

PUBLISHED_SAMPLES = 50_000
"""Samples that papers measure distances with."""


def sample_count(num_images: int) -> int:
    """Return how many samples to compare with `num_images` reference images, as papers do."""
    return min(PUBLISHED_SAMPLES, num_images)
