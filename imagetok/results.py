"""Base class of results, which show their numbers and pictures in a notebook."""

import base64
import html
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class Result(ABC):
    """Base of results, with a readable `repr` and a notebook view of numbers and pictures.

    Subclasses are frozen dataclasses (`@dataclass(frozen=True, repr=False)`) that define title,
    rows and pictures.
    """

    @abstractmethod
    def title(self) -> str:
        """Return a heading of one line: what the result is, and its path."""

    def rows(self) -> Mapping[str, object]:
        """Return the values to show, by name and in order."""
        return {}

    def pictures(self) -> Mapping[str, "np.ndarray"]:
        """Return pictures by caption, as uint8 arrays of shape (H, W) or (H, W, 3)."""
        return {}

    def __repr__(self) -> str:
        rows = {name: text_of(value) for name, value in self.rows().items()}
        width = max(map(len, rows), default=0)
        lines = [f"  {name:<{width}}  {value}" for name, value in rows.items()]
        return "\n".join([self.title(), *lines])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left'>{html.escape(name)}</td>"
            f"<td style='text-align:right'>{html.escape(text_of(value))}</td></tr>"
            for name, value in self.rows().items()
        )
        figures = "".join(
            f"<figure><img style='image-rendering:pixelated' src='{_data_url(pixels)}' "
            f"alt='{html.escape(caption, quote=True)}'>"
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            for caption, pixels in self.pictures().items()
        )
        return f"<p><b>{html.escape(self.title())}</b></p><table>{rows}</table>{figures}"


def text_of(value: object) -> str:
    """Format a value for reading; floats get six significant digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def duration_text(seconds: float) -> str:
    """Format a duration in its two largest units.

    >>> [duration_text(s) for s in (0.5, 59, 260, 7500, 200_000)]
    ['0.5 s', '59 s', '4 min 20 s', '2 h 5 min', '2 d 8 h']
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    for size, unit, smaller_size, smaller in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size} {unit} {rest} {smaller}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def _data_url(pixels: "np.ndarray") -> str:
    from PIL import Image

    from imagetok.pictures import png_bytes  # imported here, because it is slow to import

    png = png_bytes(Image.fromarray(pixels))
    return "data:image/png;base64," + base64.b64encode(png).decode()
