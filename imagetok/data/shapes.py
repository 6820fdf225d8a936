"""Synthetic images of coloured shapes; image i depends only on seed, split and i."""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, final

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from imagetok.data.base import ImageBatch, ImageDataset
from imagetok.durable import canonical_json
from imagetok.errors import ConfigError
from imagetok.images import ImageContract
from imagetok.seeding import derive_seed

BACKGROUND = 0  # class of the background in a class map; a shape of class c is 1 + c
_MIN_CONTRAST = 0.3  # least difference of luma, so that the shape is visible in grey images too
_LUMA = (0.299, 0.587, 0.114)
_NUM_DRAWS = 10


class _ShapeBatch(NamedTuple):
    """Geometry and colours of a batch of shapes."""

    distance: Float64[Tensor, "B H W"]  # distance to the edge in pixels, negative inside
    foreground: Float64[Tensor, "B 3"]
    background: Float64[Tensor, "B 3"]
    labels: Int64[Tensor, " B"]


@final
class Shapes(ImageDataset):
    """One shape per image with random colours, position, size and rotation; its class is i % 10.

    The images are drawn at the size of the contract, so its crop and resize do not apply.
    """

    def __init__(self, split: str, contract: ImageContract, *, parts: dict[str, int], seed: int):
        """Concatenate the splits in `parts`, which maps split to number of images."""
        self.name = "shapes"
        self.split = split
        self.contract = contract
        self.class_names = tuple(_OUTLINES)
        self._sources = [(part, i) for part, count in parts.items() for i in range(count)]
        self._seed = seed

    def __len__(self) -> int:
        return len(self._sources)

    def identity(self) -> str:
        """Return a hash of the seed, the splits and the contract, which determine all pixels."""
        content = [self._seed, self._sources, self.contract.model_dump(mode="json")]
        return hashlib.sha256(canonical_json(content)).hexdigest()

    def read(self, indices: Sequence[int]) -> ImageBatch:
        """Draw the images at `indices`, or their class maps for a contract of label maps."""
        drawing = self._draw(indices)
        chosen = torch.tensor(indices, dtype=torch.int64)
        if self.contract.mode == "labels":
            classes = _classes(drawing).to(torch.uint8)[:, None]
            return ImageBatch(classes, drawing.labels, chosen)
        # Fraction of a pixel that is covered, given the distance of the edge from its centre.
        coverage = (0.5 - drawing.distance).clamp(0, 1)[:, None]  # (B, 1, H, W)
        background = drawing.background[:, :, None, None]
        colours = background + coverage * (drawing.foreground[:, :, None, None] - background)
        if self.contract.mode == "grey":
            weights = colours.new_tensor(_LUMA)
            colours = (colours * weights[:, None, None]).sum(1, keepdim=True)
        images = (colours * 255).round().to(torch.uint8)
        return ImageBatch(images, drawing.labels, chosen)

    def class_map(self, index: int) -> Int64[Tensor, "H W"]:
        """Return the class of every pixel: 0 for background, 1 + class of the shape inside it."""
        return self.class_maps([index])[0]

    def class_maps(self, indices: Sequence[int]) -> Int64[Tensor, "B H W"]:
        """Return the `class_map` of several images."""
        return _classes(self._draw(indices))

    def _draw(self, indices: Sequence[int]) -> _ShapeBatch:
        self.check_indices(indices)
        numbers = torch.empty(len(indices), _NUM_DRAWS, dtype=torch.float64)
        generator = torch.Generator()
        for row, index in zip(numbers, indices, strict=True):
            generator.manual_seed(derive_seed(self._seed, "shapes", *self._sources[index]))
            row.uniform_(generator=generator)
        classes = [self._sources[index][1] % len(_OUTLINES) for index in indices]
        labels = torch.tensor(classes, dtype=torch.int64)
        background, foreground = numbers[:, :3], _contrasting(numbers[:, 3:6], numbers[:, :3])
        distance = self._distances(numbers[:, 6:], labels)
        return _ShapeBatch(distance, foreground, background, labels)

    def _distances(
        self, numbers: Float64[Tensor, "B 4"], labels: Int64[Tensor, " B"]
    ) -> Float64[Tensor, "B H W"]:
        height, width = self.contract.height, self.contract.width
        radius = min(height, width) * (0.22 + 0.2 * numbers[:, 0])
        turn = 2 * math.pi * numbers[:, 1]
        # Centres are at least a radius away from every side, so that shapes fit on the canvas.
        x = radius + (width - 2 * radius) * numbers[:, 2]
        y = radius + (height - 2 * radius) * numbers[:, 3]
        columns = torch.arange(width, dtype=torch.float64) + 0.5
        rows = torch.arange(height, dtype=torch.float64) + 0.5
        right = ((columns - x[:, None]) / radius[:, None])[:, None, :]  # (B, 1, W)
        down = ((rows - y[:, None]) / radius[:, None])[:, :, None]  # (B, H, 1)
        cosine, sine = turn.cos()[:, None, None], turn.sin()[:, None, None]
        u, v = cosine * right + sine * down, cosine * down - sine * right  # (B, H, W) each
        distance = torch.empty_like(u)
        for label, outline in enumerate(_OUTLINES.values()):
            chosen = labels == label
            if chosen.any():
                distance[chosen] = outline(u[chosen], v[chosen])
        return distance * radius[:, None, None]


def _classes(drawing: _ShapeBatch) -> Int64[Tensor, "B H W"]:
    inside = 1 + drawing.labels[:, None, None]
    return torch.where(drawing.distance < 0, inside, BACKGROUND)


def _contrasting(
    colours: Float64[Tensor, "B 3"], background: Float64[Tensor, "B 3"]
) -> Float64[Tensor, "B 3"]:
    """Move each colour towards white or black until its luma differs from the background's."""
    luma, other = (c @ c.new_tensor(_LUMA) for c in (colours, background))
    target = (other < 0.5).to(colours.dtype)
    wanted = other + _MIN_CONTRAST * (2 * target - 1)
    share = ((wanted - luma) / (target - luma)).where((luma - other).abs() < _MIN_CONTRAST, 0)
    return colours + share[:, None] * (target[:, None] - colours)


# Outlines: signed distances in a frame where the shape fits the unit circle, negative inside.
# Outside a corner the distances are too small, which affects only the anti-aliasing.


def _circle(u: Tensor, v: Tensor) -> Tensor:
    return torch.hypot(u, v) - 0.9


def _ring(u: Tensor, v: Tensor) -> Tensor:
    return (torch.hypot(u, v) - 0.73).abs() - 0.2


def _half_disc(u: Tensor, v: Tensor) -> Tensor:
    v = v - 0.4
    return torch.maximum(torch.hypot(u, v) - 0.9, v)


def _box(u: Tensor, v: Tensor, half_width: float, half_height: float) -> Tensor:
    return torch.maximum(u.abs() - half_width, v.abs() - half_height)


def _square(u: Tensor, v: Tensor) -> Tensor:
    return _box(u, v, 0.7, 0.7)


def _bar(u: Tensor, v: Tensor) -> Tensor:
    return _box(u, v, 0.94, 0.3)


def _cross(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum(_box(u, v, 0.94, 0.28), _box(u, v, 0.28, 0.94))


def _diamond(u: Tensor, v: Tensor) -> Tensor:
    half_width, half_height = 0.5, 1.0  # unequal, because otherwise it would be a rotated square
    scale = math.hypot(1 / half_width, 1 / half_height)
    return (u.abs() / half_width + v.abs() / half_height - 1) / scale


def _polygon(num_corners: int) -> Callable[[Tensor, Tensor], Tensor]:
    def outline(u: Tensor, v: Tensor) -> Tensor:
        return _folded(u, v, num_corners)[0] - math.cos(math.pi / num_corners)

    return outline


def _star(u: Tensor, v: Tensor) -> Tensor:
    num_tips, inner = 5, 0.45
    along, across = _folded(u, v, num_tips)
    # The folded sector has one straight edge: from the inner corner at (inner, 0) on its middle
    # line to the tip on its border, at (cos, sin) of half the sector's angle.
    half = math.pi / num_tips
    edge_x, edge_y = math.cos(half) - inner, math.sin(half)
    return ((along - inner) * edge_y - across * edge_x) / math.hypot(edge_x, edge_y)


def _folded(u: Tensor, v: Tensor, num_sectors: int) -> tuple[Tensor, Tensor]:
    """Fold the plane into half a sector; return coordinates along and across its middle line."""
    sector = 2 * math.pi / num_sectors
    angle = torch.remainder(torch.atan2(v, u), sector) - sector / 2
    distance = torch.hypot(u, v)
    return distance * angle.cos(), (distance * angle.sin()).abs()


_OUTLINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _polygon(3),
    "diamond": _diamond,
    "pentagon": _polygon(5),
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "half disc": _half_disc,
    "bar": _bar,
}


def open_shapes(
    split: str, contract: ImageContract, *, count: int, test_count: int, seed: int
) -> Shapes:
    """Open split train (`count` images), test (`test_count`), or all (train followed by test).

    Raises ConfigError for a contract of label maps with fewer classes than the class maps have.
    """
    wanted = 1 + len(_OUTLINES)
    if contract.num_classes is not None and contract.num_classes < wanted:
        raise ConfigError(
            f"shapes: its class maps have {wanted} classes (a background and {wanted - 1} shapes); "
            f"expected image.num_classes of at least {wanted}, found {contract.num_classes}"
        )
    parts = {"train": count, "test": test_count}
    chosen = parts if split == "all" else {split: parts[split]}
    return Shapes(split, contract, parts=chosen, seed=seed)
