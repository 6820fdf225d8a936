"""The facts of a run: what it trains and on what, which it logs before its first step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from imagetok.results import Result
from imagetok.suggestions import shown

NAMED_CLASSES = 10
"""Number of classes whose names are shown."""


@dataclass(frozen=True, repr=False)
class RunFacts(Result):
    """What a run trains, and on what."""

    what: str
    """Kind of the model and its method, such as "tokenizer, vqvae-ema"."""
    data: str
    """Spec of the training images, or folder of the training codes."""
    images: int
    """Number of training images."""
    held_out: int
    """Number of held-out images."""
    class_names: tuple[str, ...]
    """Names of the classes of the training images; empty if unlabelled."""
    pixels: str
    """Size and mode of the images, such as "32 x 32 rgb"."""
    num_codes: tuple[int, ...]
    """Codebook size of each level, coarse to fine; empty for a VAE."""
    grids: tuple[tuple[int, int], ...]
    """Grid (h, w) of the codes of each level."""
    parameters: int
    """Number of trained parameters."""
    steps: int
    batch_size: int

    @property
    def bits_per_image(self) -> float:
        """Bits of an image's codes if every code takes log2 of the codebook size."""
        levels = zip(self.grids, self.num_codes, strict=True)
        return sum((h * w * math.log2(k) for (h, w), k in levels), start=0.0)

    @property
    def passes(self) -> float:
        """How often the run reads every training image, on average."""
        return self.steps * self.batch_size / self.images

    def title(self) -> str:
        """Return the kind and the method."""
        return f"{self.what}, on {self.data}"

    def rows(self) -> Mapping[str, object]:
        """Return the facts by name, as text."""
        codes = " and ".join(
            f"{h} x {w} of {k:,}" for (h, w), k in zip(self.grids, self.num_codes, strict=True)
        )
        passes = f"{self.passes:,.0f}" if self.passes >= 1000 else f"{self.passes:.3g}"
        coded = {"codes an image": codes, "bits an image": f"{self.bits_per_image:,.0f}"}
        return {
            "images": f"{self.images:,}",
            "held out": f"{self.held_out:,}",
            "classes": classes_text(self.class_names),
            "pixels": self.pixels,
            **(coded if self.num_codes else {}),
            "parameters": f"{self.parameters:,}",
            "steps": f"{self.steps:,} of {self.batch_size} images, {passes} passes",
        }


def classes_text(names: Sequence[str]) -> str:
    """Return the number of classes and the first names: `3: cat, dog, horse`."""
    if not names:
        return "none"
    listed = ", ".join(map(shown_name, names[:NAMED_CLASSES]))
    return f"{len(names):,}: {listed}{', ...' if len(names) > NAMED_CLASSES else ''}"


def shown_name(name: str) -> str:
    """Return a name as it is if it is short and printable, else as a quoted value."""
    return name if len(name) <= 40 and name.isprintable() else shown(name)


def count_parameters(model: nn.Module) -> int:
    """Return the number of trained parameters of a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
