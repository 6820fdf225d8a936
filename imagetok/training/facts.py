"""The facts of a run: what it trains and on what, which it logs before its first step.

A dry run shows the same before the images, codes or tokenizer exist; what they would tell is None.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from imagetok.results import Result
from imagetok.suggestions import counted, shown

NAMED_CLASSES = 10
"""Number of classes whose names are shown."""
UNKNOWN = "unknown"
"""Text of a fact that only missing images, codes or a missing tokenizer would tell."""


@dataclass(frozen=True, repr=False)
class RunFacts(Result):
    """What a run trains, and on what."""

    what: str
    """Kind of the model and its method, such as "tokenizer, vqvae-ema"."""
    data: str
    """Spec of the training images, or folder of the training codes."""
    images: int | None
    """Number of training images; None if they cannot be opened."""
    held_out: int | None
    """Number of held-out images; None if they cannot be opened."""
    class_names: tuple[str, ...] | None
    """Names of the classes of the training images; empty if unlabelled, None if unknown."""
    pixels: str | None
    """Size and mode of the images, such as "32 x 32 rgb"; None for codes of an unknown tokenizer,
    as are the codes and the parameters."""
    num_codes: tuple[int, ...] | None
    """Codebook size of each level, coarse to fine; empty for a VAE."""
    grids: tuple[tuple[int, int], ...] | None
    """Grid (h, w) of the codes of each level."""
    parameters: int | None
    """Number of parameters, codebooks included; without those of the classes while these are
    unknown."""
    steps: int
    batch_size: int

    @property
    def levels(self) -> list[tuple[int, int, int]]:
        """Grid height and width, and codebook size, of each level; empty if there are no codes."""
        known = zip(self.grids or (), self.num_codes or (), strict=True)
        return [(height, width, k) for (height, width), k in known]

    @property
    def bits_per_image(self) -> float:
        """Bits of an image's codes if every code takes log2 of the codebook size."""
        return sum((h * w * math.log2(k) for h, w, k in self.levels), start=0.0)

    @property
    def passes(self) -> float | None:
        """How often the run reads every training image, on average."""
        return None if self.images is None else self.steps * self.batch_size / self.images

    def title(self) -> str:
        """Return the kind and the method."""
        return f"{self.what}, on {self.data}"

    def rows(self) -> Mapping[str, object]:
        """Return the facts by name, as text."""
        coded = {
            "codes an image": " and ".join(f"{h} x {w} of {k:,}" for h, w, k in self.levels),
            "bits an image": f"{self.bits_per_image:,.0f}",
        }
        return {
            "images": _count(self.images),
            "held out": _count(self.held_out),
            "classes": UNKNOWN if self.class_names is None else classes_text(self.class_names),
            "pixels": self.pixels or UNKNOWN,
            **(coded if self.levels else {}),
            "parameters": _count(self.parameters),
            "steps": f"{self.steps:,} of {counted(self.batch_size, 'image')}{self._passes_text()}",
        }

    def _passes_text(self) -> str:
        passes = self.passes
        if passes is None:
            return ""
        text = f"{passes:,.0f}" if passes >= 1000 else f"{passes:.3g}"
        return f", {text} {'pass' if text == '1' else 'passes'}"


def _count(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"


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
    """Return the number of parameters of a model, codebooks included.

    A codebook that no gradient trains is a buffer of the state dict, with a name that ends in
    `codebook`. Other buffers, such as the sizes of clusters, and codes that are computed from a
    formula are not counted.
    """
    codebooks = {
        name: tensor
        for name, tensor in model.state_dict(keep_vars=True).items()
        if name.endswith("codebook") and not isinstance(tensor, nn.Parameter)
    }
    return sum(tensor.numel() for tensor in (*model.parameters(), *codebooks.values()))
