"""`imagetok.reconstruct`: images and their reconstructions by a tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from imagetok.data import open_image, preprocess
from imagetok.data.preprocessing import to_array
from imagetok.durable import write_bytes
from imagetok.errors import InputError
from imagetok.evaluation.reconstruction_error import quality, quality_sums
from imagetok.images import (
    ImageContract,
    Images,
    ImageSize,
    checked_size,
    clamp_pixels,
    from_stored,
)
from imagetok.io.output_paths import output_file
from imagetok.pictures import as_rgb, enlarged, grid, png_bytes, side_by_side
from imagetok.processes import device_of
from imagetok.results import Result
from imagetok.suggestions import counted
from imagetok.tokenizers import Autoencoder
from imagetok.tokenizers.loading import display_name, open_autoencoder

COLUMNS = 8
SIDE = 128
"""Approximate size in pixels to which small images are enlarged."""


@dataclass(frozen=True, repr=False, eq=False)
class ReconstructionResult(Result):
    """Images as a tokenizer reads them, and their reconstructions."""

    tokenizer: str
    """The tokenizer's path or Hub id, as passed to `reconstruct`."""
    names: tuple[str, ...]
    """Paths of the images, or `image N` for images without a path."""
    originals: Images
    """(B, C, H, W) pixels in [0, 1], or (B, H, W) class numbers of label maps."""
    reconstructions: Images
    """Same shape as `originals`; pixels are clamped to [0, 1]."""
    measures: tuple[dict[str, float], ...]
    """Per image: `mse` and others for pixels, `pixel_accuracy` and `miou` for label maps; none for
    a label map in which no pixel has a class."""

    def title(self) -> str:
        """Return a title: the number of images and the tokenizer."""
        whose = "its reconstruction" if len(self.names) == 1 else "their reconstructions"
        return f"{counted(len(self.names), 'image')} and {whose} by {self.tokenizer}"

    def rows(self) -> dict[str, object]:
        """Return the first measure of each image by its name."""
        first = [next(iter(measures.items()), None) for measures in self.measures]
        return {
            name: "no pixel has a class" if one is None else f"{one[0]} {one[1]:.5f}"
            for name, one in zip(self.names, first, strict=True)
        }

    def picture(self) -> Image.Image:
        """Return a picture with rows of at most 8 originals, reconstructions below them."""
        columns = min(COLUMNS, len(self.names))
        pairs = side_by_side(as_rgb(self.originals), as_rgb(self.reconstructions), columns)
        return enlarged(grid(pairs, columns), max(1, SIDE // self.originals.shape[-2]))

    def pictures(self) -> dict[str, np.ndarray]:
        """Return the picture of `picture` under its caption."""
        return {"originals above, reconstructions below": np.asarray(self.picture())}


def _check_files(images: Sequence[object]) -> None:
    """Raise InputError for a folder, which `reconstruct` doesn't read as a whole."""
    for one in images:
        if isinstance(one, Path | str) and Path(one).is_dir():
            raise InputError(
                f"{one}: expected image files, found a folder; pass its files, as in {one}/*.png, "
                f"or measure all of them: imagetok evaluate --tokenizer TOKENIZER --data {one}"
            )


class _Reconstructed(NamedTuple):
    """One image (1, ...), its reconstruction, and the contract of both."""

    before: Images
    after: Images
    image: ImageContract


def _reconstruct_one(
    model: Autoencoder, picture: Image.Image | np.ndarray, size: ImageSize | str | None
) -> _Reconstructed:
    if size == "native":
        pixels = np.asarray(
            to_array(picture, model.image.mode == "labels")
            if isinstance(picture, Image.Image)
            else picture
        )
        height, width = (side // model.stride * model.stride for side in pixels.shape[:2])
        if not height or not width:
            raise InputError(
                f"expected an image of at least {model.stride} x {model.stride} pixels, one code, "
                f"found {pixels.shape[0]} x {pixels.shape[1]}; pass a size"
            )
        model = model.at_size(height, width, crop=True)
    elif size is not None:
        model = model.at_size(*checked_size(size))
    before = from_stored(preprocess(picture, model.image)[None], model.image)
    after = clamp_pixels(model.reconstruct(before.to(device_of(model)))).cpu()
    return _Reconstructed(before, after, model.image)


def _stacked(images: Sequence[Tensor]) -> Images:
    """Stack images of one or several sizes; smaller ones are filled up with 1 (white)."""
    height, width = (max(image.shape[axis] for image in images) for axis in (-2, -1))
    filled = [
        nn.functional.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]), value=1)
        for image in images
    ]
    return torch.cat(filled)


def reconstruct(
    tokenizer: Autoencoder | Path | str,
    images: Path | str | Image.Image | np.ndarray | Sequence[Path | str | Image.Image | np.ndarray],
    *,
    size: ImageSize | str | None = None,
    out: Path | str | None = None,
    device: torch.device | str | None = None,
) -> ReconstructionResult:
    """Reconstruct images with a tokenizer.

    tokenizer: a Tokenizer or VAE, its folder, or a Hub id. images: one or several, each a file, a
    PIL image, or pixels 0..255 as a uint8 array (H, W), (H, W, 1) or (H, W, 3); sizes may differ:
    each is cropped and resized to the tokenizer's size. size: another size (height, width), or
    "native", for each image its own, cropped to the tokenizer's stride; the results are then filled
    up at the right and below to the size of the largest. out: a PNG file to write, with the
    originals above their reconstructions.

    Raises ArtifactError if `tokenizer` is no tokenizer, InputError if an image cannot be read.

    Example: `imagetok.reconstruct("runs/a/tokenizer", ["photo.jpg"]).reconstructions`
    """
    file = output_file(out)
    several = [images] if isinstance(images, Path | str | Image.Image | np.ndarray) else images
    if not isinstance(several, Sequence):
        raise InputError(
            "expected images: files, PIL images or uint8 arrays, or a list of them, found "
            f"{type(several).__name__}"
        )
    if not len(several):
        raise InputError("expected at least one image, found none")
    model = open_autoencoder(tokenizer, device)
    model.check_finite()
    _check_files(several)
    as_labels = model.image.mode == "labels"
    done = [
        _reconstruct_one(
            model, open_image(one, as_labels) if isinstance(one, Path | str) else one, size
        )
        for one in several
    ]
    found = ReconstructionResult(
        tokenizer=display_name(tokenizer),
        names=tuple(
            str(one) if isinstance(one, Path | str) else f"image {i}"
            for i, one in enumerate(several)
        ),
        originals=_stacked([one.before for one in done]),
        reconstructions=_stacked([one.after for one in done]),
        measures=tuple(
            quality(quality_sums(one.after, one.before, one.image), 1, one.image) for one in done
        ),
    )
    if file is not None:
        write_bytes(file, png_bytes(found.picture()))
    return found
