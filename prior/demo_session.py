"""What the demo's page asks for: images to codes, maps and back, draws, completions.

Nothing of this knows the page: pictures are uint8 arrays (H, W, 3), codes are tables of whole
numbers, one a level.
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
from imagetok.evaluation.uncertainty import uncertainty_map
from imagetok.images import Images, from_stored
from imagetok.pictures import as_pixels, as_rgb, grid, overlay, palette
from imagetok.processes import device_of
from imagetok.quantizers import Codes
from imagetok.tokenizers import Tokenizer
from prior.base import Prior
from prior.completion import with_kept
from prior.generation import Label
from prior.sampling_params import SamplingParams

DEFAULTS = SamplingParams()
MAX_SAMPLES = 64
"""Images drawn at once."""
_SIDE = 384  # pixels that a small picture is enlarged to, about

Table = list[list[int]]
"""Codes of one level, row by row."""


class EncodedView(NamedTuple):
    """An image, seen by a tokenizer."""

    original: np.ndarray
    """As the tokenizer reads it."""
    reconstruction: np.ndarray
    tables: list[Table]
    code_maps: list[np.ndarray]
    """A colour for each code."""
    unsure: np.ndarray | None
    """Uncertainty, or else entropy, over the image; None where the quantizer tells of neither."""
    description: str
    """What the map means, and how large its largest value is."""


class DemoSession:
    """A tokenizer, and perhaps a prior on its codes, with everything that the page can do."""

    def __init__(self, tokenizer: Tokenizer, prior: Prior | None):
        if prior is not None:
            prior.check_tokenizer(tokenizer.fingerprint, str(tokenizer.origin))
        self.tokenizer = tokenizer
        self.prior = prior
        self.device = device_of(tokenizer)

    def look(self, file: str) -> EncodedView:
        """Encode an image file and decode it again. Raises InputError for what is no image."""
        image = self._read(file)
        codes, maps = self.tokenizer.encode_with_certainty(image.to(self.device))
        unsure, description = _uncertainty_maps(image, maps)
        return EncodedView(
            _picture(as_rgb(image)),
            self._decoded(codes),
            [level[0].tolist() for level in codes],
            [_colours(level[0].cpu()) for level in codes],
            unsure,
            description,
        )

    def decode(self, tables: Sequence[Sequence[Sequence[object]]]) -> np.ndarray:
        """The picture of edited codes. Raises InputError for what are no codes of the tokenizer."""
        return self._decoded(self._codes(tables))

    def colours(self, tables: Sequence[Sequence[Sequence[object]]]) -> list[np.ndarray]:
        """A colour for each of edited codes."""
        return [_colours(level[0].cpu()) for level in self._codes(tables)]

    def swap(self, table: Sequence[Sequence[object]], level: int, old: int, new: int) -> Table:
        """A level's table with the codes `old` and `new` in each other's place."""
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
        """New images. Raises ConfigError for what this prior cannot follow."""
        codes = self._prior().sample(_counted(count), label=label, **params.model_dump())
        return _pictures(as_pixels(as_rgb(decode_in_batches(self.tokenizer, codes))))

    def complete(
        self,
        file: str,
        keep_rows: int,
        count: int,
        label: Label = None,
        params: SamplingParams = DEFAULTS,
    ) -> list[np.ndarray]:
        """An image as its codes give it back, what is kept of that, and `count` completions."""
        prior = self._prior()
        given = self.tokenizer.encode(self._read(file).to(self.device))
        drawn = prior.sample(
            _counted(count), given=given, keep_rows=keep_rows, label=label or "none",
            **params.model_dump(),
        )  # fmt: skip
        both = tuple(torch.cat(levels) for levels in zip(given, drawn, strict=True))
        pixels = as_pixels(as_rgb(decode_in_batches(self.tokenizer, both)))
        share = keep_rows / min(h for h, _ in prior.config.grids)
        return _pictures(with_kept(pixels, share))

    def _prior(self) -> Prior:
        if self.prior is None:
            raise InputError("there is no prior here; start the demo with --prior DIR")
        return self.prior

    def _read(self, file: str) -> Images:
        """One image file as the tokenizer takes it."""
        contract = self.tokenizer.image
        try:
            stored = preprocess(open_image(file, contract.mode == "labels"), contract)
        except InputError as error:
            # Where the server keeps uploads is nobody's business.
            raise InputError(str(error).replace(file, Path(file).name)) from None
        return from_stored(stored[None], contract)

    def _codes(self, tables: Sequence[Sequence[Sequence[object]]]) -> Codes:
        grids = self.tokenizer.grids
        if len(tables) != len(grids):
            raise InputError(f"expected {len(grids)} tables of codes, found {len(tables)}")
        levels = [_whole(t, i, g) for i, (t, g) in enumerate(zip(tables, grids, strict=True))]
        return tuple(torch.tensor([level], device=self.device) for level in levels)

    def _decoded(self, codes: Codes) -> np.ndarray:
        return _picture(as_rgb(self.tokenizer.decode(codes).cpu()))


def _whole(table: Sequence[Sequence[object]], level: int, grid: tuple[int, int]) -> Table:
    """A table as it comes from a page, where a cell may be text, empty, or 3.0."""
    rows, columns = grid
    if len(table) != rows or any(len(row) != columns for row in table):
        raise InputError(f"level {level}: expected {rows} rows of {columns} codes")
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
        raise InputError(f"expected 1 to {MAX_SAMPLES} images at once, found {count}")
    return count


def _uncertainty_maps(image: Images, maps: dict[str, Tensor]) -> tuple[np.ndarray | None, str]:
    """The map of the coarsest level, scaled to its largest value."""
    found = uncertainty_map(maps)
    if not found:
        return None, "This quantizer gives no probabilities, so it does not tell how sure it is."
    name, values = next((name, values.cpu()) for name, values in found.items())
    largest = float(values.max())
    shown = overlay(as_rgb(image), values / max(largest, 1e-12))
    description = (
        f"{name.replace('_level', ', level ')}: dark is sure, pale yellow is {largest:.3g}"
    )
    return _enlarged(shown[0].transpose(1, 2, 0)), description


def _colours(codes: Tensor) -> np.ndarray:
    """(h, w) codes as colours; neighbouring numbers have different ones."""
    table = palette()
    return _enlarged(table[1 + codes.numpy() % 255])


def _pictures(pixels: np.ndarray) -> list[np.ndarray]:
    return [_picture(image[None]) for image in pixels]


def _picture(images: Tensor | np.ndarray) -> np.ndarray:
    """One image as RGB, enlarged."""
    return _enlarged(np.array(grid(images, columns=1, padding=0).convert("RGB")))


def _enlarged(pixels: np.ndarray) -> np.ndarray:
    """Whole pixels of a small picture, as squares."""
    scale = max(1, _SIDE // max(pixels.shape[:2]))
    size = (pixels.shape[1] * scale, pixels.shape[0] * scale)
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))
