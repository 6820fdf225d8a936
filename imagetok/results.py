"""What the library's functions return: numbers and pictures that show themselves in a notebook."""

import base64
import html
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class Result(ABC):
    """Base of the results: a readable `repr`, and numbers and pictures in a notebook.

    Subclasses are frozen dataclasses (`@dataclass(frozen=True, repr=False)`) and say what is shown.
    """

    @abstractmethod
    def title(self) -> str:
        """One line: what this is, and where it lies."""

    def rows(self) -> Mapping[str, object]:
        """The numbers worth showing, by name, in order."""
        return {}

    def pictures(self) -> Mapping[str, "np.ndarray"]:
        """Pictures by caption: uint8, (H, W) or (H, W, 3)."""
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
    """A value as people read it: floats with six significant digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _data_url(pixels: "np.ndarray") -> str:
    from PIL import Image

    from imagetok.pictures import png_bytes  # not needed to list configs, and slow to import

    png = png_bytes(Image.fromarray(pixels))
    return "data:image/png;base64," + base64.b64encode(png).decode()
