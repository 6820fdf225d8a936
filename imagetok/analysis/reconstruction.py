"""`imagetok.reconstruct`: images and their reconstructions by a tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from imagetok.data import open_image, preprocess
from imagetok.durable import write_bytes
from imagetok.errors import InputError
from imagetok.evaluation.reconstruction_error import quality, quality_sums
from imagetok.images import Images, clamp_pixels, from_stored
from imagetok.io.output_paths import output_file
from imagetok.pictures import as_rgb, enlarged, grid, png_bytes, side_by_side
from imagetok.processes import device_of
from imagetok.results import Result
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
    """Per image: `mse` and others for pixels, `pixel_accuracy` and `miou` for label maps."""

    def title(self) -> str:
        """Return a title: the number of images and the tokenizer."""
        return f"{len(self.names)} images and their reconstructions by {self.tokenizer}"

    def rows(self) -> dict[str, object]:
        """Return the first measure of each image by its name."""
        return {
            name: f"{measure} {value:.5f}"
            for name, measures in zip(self.names, self.measures, strict=True)
            for measure, value in [next(iter(measures.items()))]
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


def reconstruct(
    tokenizer: Autoencoder | Path | str,
    images: Path | str | Image.Image | np.ndarray | Sequence[Path | str | Image.Image | np.ndarray],
    *,
    out: Path | str | None = None,
    device: torch.device | str | None = None,
) -> ReconstructionResult:
    """Reconstruct images with a tokenizer.

    tokenizer: a Tokenizer or VAE, its folder, or a Hub id. images: one or several, each a file, a
    PIL image, or pixels 0..255 as a uint8 array (H, W), (H, W, 1) or (H, W, 3); sizes may differ:
    each is cropped and resized to the tokenizer's size. out: a PNG file to write, with the
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
    stored = [
        preprocess(open_image(one, as_labels) if isinstance(one, Path | str) else one, model.image)
        for one in several
    ]
    batch = from_stored(torch.stack(stored), model.image)
    x_hat = clamp_pixels(model.reconstruct(batch.to(device_of(model)))).cpu()
    pairs = zip(x_hat.split(1), batch.split(1), strict=True)
    found = ReconstructionResult(
        tokenizer=display_name(tokenizer),
        names=tuple(
            str(one) if isinstance(one, Path | str) else f"image {i}"
            for i, one in enumerate(several)
        ),
        originals=batch,
        reconstructions=x_hat,
        measures=tuple(
            quality(quality_sums(after, before, model.image), 1, model.image)
            for after, before in pairs
        ),
    )
    if file is not None:
        write_bytes(file, png_bytes(found.picture()))
    return found
