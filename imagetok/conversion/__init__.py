"""Tokenizers of other programs as artifacts of ours."""

from imagetok.conversion.convert import Converted, convert
from imagetok.conversion.families import FAMILIES, FamilyName

__all__ = ["FAMILIES", "Converted", "FamilyName", "convert"]
