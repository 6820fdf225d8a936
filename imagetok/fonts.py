"""The font of the names in pictures: DejaVu Sans, which comes with matplotlib."""

from functools import cache
from pathlib import Path

from PIL import ImageFont


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font in a size in pixels; the same letters on every machine."""
    return ImageFont.truetype(_file(), size)


def has_letters(text: str) -> bool:
    """Return whether the font has all letters of a text; it lacks Chinese, Korean and others."""
    return _letters().issuperset(map(ord, text))


@cache
def _letters() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(_file()).get_charmap())


def _file() -> str:
    import matplotlib  # here, because it takes a second to import

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
