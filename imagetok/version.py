"""The version of imagetok, here and nowhere else: packaging, artifacts and records read it."""

__version__ = "0.2.0"
