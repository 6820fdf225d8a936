"""The actions of the demo: encode and decode images, edit codes, sample, complete.

This module does not depend on the web page: pictures are uint8 arrays (H, W, 3), and codes are one
table of integers per level.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from imagetok.codes.decode import decode_in_batches
from imagetok.data import open_image, preprocess
from imagetok.errors import InputError
from imagetok.evaluation.uncertainty_scores import uncertainty_map
from imagetok.images import Images, from_stored
from imagetok.pictures import as_pixels, as_rgb, class_labels, grid, overlay, palette
from imagetok.processes import device_of
from imagetok.quantizers import Codes
from imagetok.suggestions import counted
from imagetok.tokenizers import Tokenizer
from prior.base import Label, Prior
from prior.completion import with_kept
from prior.sampling_params import SamplingParams

DEFAULTS = SamplingParams()
MAX_SAMPLES = 64
"""Largest number of images per request."""
_SIDE = 384  # approximate size in pixels to which small pictures are enlarged

Table = list[list[int]]
"""Codes of one level, row by row."""


class EncodedView(NamedTuple):
    """An image encoded and decoded by a tokenizer."""

    original: np.ndarray
    """The image as the tokenizer reads it."""
    reconstruction: np.ndarray
    tables: list[Table]
    code_maps: list[np.ndarray]
    """Maps of the codes, one colour per code."""
    unsure: np.ndarray | None
    """Uncertainty, or else entropy, over the image; None if the quantizer has neither."""
    description: str
    """Explanation of the uncertainty map, with its largest value."""


class DemoSession:
    """A tokenizer and optionally a prior on its codes, with the actions of the demo."""

    def __init__(self, tokenizer: Tokenizer, prior: Prior | None):
        if prior is not None:
            prior.check_tokenizer(tokenizer.codes_fingerprint, str(tokenizer.origin))
        self.tokenizer = tokenizer
        self.prior = prior
        self.device = device_of(tokenizer)

    def look(self, file: str) -> EncodedView:
        """Encode an image file and decode it again. Raises InputError if it is no image."""
        image = self._read(file)
        codes, maps = self.tokenizer.encode_with_certainty(image.to(self.device))
        unsure, description = _uncertainty_maps(image, maps, self.tokenizer.num_codes[0])
        return EncodedView(
            _picture(as_rgb(image)),
            self._decoded(codes),
            [level[0].tolist() for level in codes],
            [_colours(level[0].cpu()) for level in codes],
            unsure,
            description,
        )

    def decode(self, tables: Sequence[Sequence[Sequence[object]]]) -> np.ndarray:
        """Decode edited codes. Raises InputError if they are no codes of the tokenizer."""
        return self._decoded(self._codes(tables))

    def colours(self, tables: Sequence[Sequence[Sequence[object]]]) -> list[np.ndarray]:
        """Return the colour maps of edited codes."""
        return [_colours(level[0].cpu()) for level in self._codes(tables)]

    def swap(self, table: Sequence[Sequence[object]], level: int, old: int, new: int) -> Table:
        """Exchange the codes `old` and `new` in the table of a level."""
        grid, num_codes = self.tokenizer.grids[level], self.tokenizer.num_codes[level]
        codes = torch.tensor(_whole(table, level, grid))
        for code in (old, new):
            if not 0 <= code < num_codes:
                raise InputError(f"level {level}: expected codes in [0, {num_codes}), found {code}")
        is_old, is_new = codes == old, codes == new
        codes[is_old], codes[is_new] = new, old
        return codes.tolist()

    def sample(
        self, count: int, label: Label = None, params: SamplingParams = DEFAULTS
    ) -> list[np.ndarray]:
        """Sample new images. Raises ConfigError for parameters that this prior cannot use."""
        codes = self._prior().sample(_counted(count), label=label, **params.model_dump())
        return _pictures(as_pixels(as_rgb(decode_in_batches(self.tokenizer, codes))))

    def captions(self, count: int, label: Label = None) -> list[str]:
        """Return the class of each of `count` samples, or their numbers without classes."""
        prior = self._prior()
        cycle = prior.labels_for(label)
        labels = [cycle[j % len(cycle)] for j in range(_counted(count))]
        names = class_labels(labels, prior.config.class_names)
        return [name or f"sample {j + 1}" for j, name in enumerate(names)]

    def complete(
        self,
        file: str,
        keep_rows: int,
        count: int,
        label: Label = None,
        params: SamplingParams = DEFAULTS,
    ) -> list[np.ndarray]:
        """Return an image's reconstruction, its kept part, and `count` completions."""
        prior = self._prior()
        given = self.tokenizer.encode(self._read(file).to(self.device))
        drawn = prior.sample(
            _counted(count), given=given, keep_rows=keep_rows, label=label,
            **params.model_dump(),
        )  # fmt: skip
        both = tuple(torch.cat(levels) for levels in zip(given, drawn, strict=True))
        pixels = as_pixels(as_rgb(decode_in_batches(self.tokenizer, both)))
        share = keep_rows / min(h for h, _ in prior.config.grids)
        return _pictures(with_kept(pixels, share))

    def _prior(self) -> Prior:
        if self.prior is None:
            raise InputError("the demo has no prior; start it with --prior DIR")
        return self.prior

    def _read(self, file: str) -> Images:
        """Read an image file as the tokenizer's input (1, ...)."""
        contract = self.tokenizer.image
        try:
            stored = preprocess(open_image(file, contract.mode == "labels"), contract)
        except InputError as error:
            # Do not reveal where the server stores uploads.
            raise InputError(str(error).replace(file, Path(file).name)) from None
        return from_stored(stored[None], contract)

    def _codes(self, tables: Sequence[Sequence[Sequence[object]]]) -> Codes:
        grids = self.tokenizer.grids
        if len(tables) != len(grids):
            raise InputError(
                f"expected {counted(len(grids), 'table')} of codes, found {len(tables)}"
            )
        levels = [_whole(t, i, g) for i, (t, g) in enumerate(zip(tables, grids, strict=True))]
        return tuple(torch.tensor([level], device=self.device) for level in levels)

    def _decoded(self, codes: Codes) -> np.ndarray:
        return _picture(as_rgb(self.tokenizer.decode(codes).cpu()))


def _whole(table: Sequence[Sequence[object]], level: int, grid: tuple[int, int]) -> Table:
    """Convert a table from a web page, whose cells may be text, empty or 3.0, to integers."""
    rows, columns = grid
    if len(table) != rows or any(len(row) != columns for row in table):
        raise InputError(f"level {level}: expected a table of {rows} x {columns} codes")
    found = []
    for row in table:
        for cell in row:
            try:
                number = float(str(cell))
            except ValueError:
                number = math.nan
            if not number.is_integer() or abs(number) >= 2**31:
                raise InputError(f"level {level}: expected whole numbers as codes, found {cell!r}")
            found.append(int(number))
    return [found[i * columns : (i + 1) * columns] for i in range(rows)]


def _counted(count: int) -> int:
    if not 1 <= count <= MAX_SAMPLES:
        raise InputError(f"expected 1 to {MAX_SAMPLES} images, found {count}")
    return count


def _uncertainty_maps(
    image: Images, maps: dict[str, Tensor], num_codes: int
) -> tuple[np.ndarray | None, str]:
    """Return the map of the coarsest level, on one scale for all images, and its explanation."""
    found = uncertainty_map(maps)
    if not found:
        return None, "This quantizer has no code probabilities, so there is no uncertainty map."
    name, values = next((name, values.cpu()) for name, values in found.items())
    measure, _, level = name.partition("_level")
    # K / S is 1 without evidence, and the entropy is ln K where all codes are equally likely.
    most, meaning, unit = (
        (1.0, "no evidence", "")
        if measure == "uncertainty"
        else (math.log(num_codes), "all codes equally likely", " nats")
    )
    shown = overlay(as_rgb(image), (values / most).clamp(0, 1))
    description = (
        f"{measure}{f', level {level}' if level else ''}, on one scale for all images: dark is 0 "
        f"(certain), pale yellow is {most:.3g}{unit} ({meaning}); here the mean is "
        f"{float(values.mean()):.3g} and the largest value {float(values.max()):.3g}"
    )
    return _enlarged(shown[0].transpose(1, 2, 0)), description


def _colours(codes: Tensor) -> np.ndarray:
    """Colour a map (h, w) of codes; consecutive codes have different colours."""
    table = palette()
    return _enlarged(table[1 + codes.numpy() % 255])


def _pictures(pixels: np.ndarray) -> list[np.ndarray]:
    return [_picture(image[None]) for image in pixels]


def _picture(images: Tensor | np.ndarray) -> np.ndarray:
    """Return one image as an enlarged RGB picture."""
    return _enlarged(np.array(grid(images, columns=1, padding=0).convert("RGB")))


def _enlarged(pixels: np.ndarray) -> np.ndarray:
    """Enlarge a small picture by a whole factor, without smoothing."""
    scale = max(1, _SIDE // max(pixels.shape[:2]))
    size = (pixels.shape[1] * scale, pixels.shape[0] * scale)
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))
