"""The version of imagetok, which packaging, artifacts and records read from here."""

__version__ = "0.2.0"
