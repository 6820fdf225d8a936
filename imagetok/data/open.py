"""The former name, up to version 0.1, of what `imagetok.data` exports: `open_image`, `ImageError`.

Kept for scripts that import from here; a DeprecationWarning names the new place.
"""

import warnings

from imagetok.data.image_decoding import ImageError, open_image

__all__ = ["ImageError", "open_image"]

warnings.warn(
    "imagetok.data.open: renamed; import open_image and ImageError from imagetok.data",
    DeprecationWarning,
    stacklevel=2,
)
