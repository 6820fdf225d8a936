"""A prior over two levels of codes (Razavi et al. 2019, "Generating diverse high-fidelity images
with VQ-VAE-2"): p(top | class) p(bottom | top, class).

The bottom prior is conditioned on the whole top map through a stack of gated residual units (van
den Oord et al.'s conditioning on a map, as in the public code of the VQ-VAE-2 priors). No weights
are shared, so training both on the sum of their losses equals training them separately.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import elu, glu, interpolate
from torch.nn.utils.parametrizations import weight_norm

from prior.base import Prior
from prior.config import ContextConfig, HierarchyConfig, PriorConfig
from prior.sequence import Codes
from prior.stepper import Stepper, StepperFactory

if TYPE_CHECKING:
    from prior.gpt import GPTPrior  # transformers takes seconds to import
    from prior.pixelcnn import PixelCNNPrior
    from prior.pixelsnail import PixelSNAILPrior


class HierarchicalPrior(Prior):
    """A prior p(top | class) p(bottom | top, class), made of two priors and a context network."""

    def __init__(
        self,
        config: PriorConfig,
        top: Prior,
        bottom: "GPTPrior | PixelSNAILPrior | PixelCNNPrior",
    ):
        super().__init__()
        assert isinstance(config.model, HierarchyConfig)
        self.config = config
        self.top, self.bottom = top, bottom
        self.matrix_layers = top.matrix_layers + bottom.matrix_layers
        self.block_layers = top.block_layers + bottom.block_layers
        self.context = ContextStack(config.model.context, config.num_codes[0])

    def forward(
        self, codes: Codes, labels: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B _K _h _w"], ...]:
        top, bottom = codes
        return *self.top((top,), labels), *self.bottom((bottom,), labels, self.context_of(top))

    def context_of(self, top: Int[Tensor, "B _h _w"]) -> Float[Tensor, "B C H W"]:
        """Return features of the top codes, upsampled (nearest neighbour) to the bottom's grid."""
        return interpolate(self.context(top), size=self.config.grids[1], mode="nearest-exact")

    def recompute_activations(self) -> None:
        self.top.recompute_activations()
        self.bottom.recompute_activations()

    def stepper(self, labels: Int[Tensor, " B"]) -> Stepper:
        return self.prepare()(labels)

    def prepare(self) -> Callable[[Int[Tensor, " B"]], Stepper]:
        top, bottom = self.top.prepare(), self.bottom.prepare()
        return lambda labels: HierarchicalStepper(self, top(labels), bottom, labels)


class HierarchicalStepper(Stepper):
    """Stepper that samples the top codes first, then the bottom codes given them."""

    def __init__(
        self,
        prior: HierarchicalPrior,
        top: Stepper,
        bottom: StepperFactory,
        labels: Int[Tensor, " B"],
    ):
        self.prior, self.current, self.bottom, self.labels = prior, top, bottom, labels
        self.drawn: list[Tensor] = []

    @torch.no_grad()
    def next_logits(self, previous: Int[Tensor, " B"] | None) -> Float[Tensor, "B K"]:
        height, width = self.prior.config.grids[0]
        if previous is not None:
            self.drawn.append(previous)
        if len(self.drawn) == height * width:
            top = torch.stack(self.drawn, dim=1).unflatten(1, (height, width))
            self.current = self.bottom(self.labels, self.prior.context_of(top))
            previous = None
        return self.current.next_logits(previous)


class ContextStack(nn.Module):
    """Network that computes features of a complete map of codes; it needs no causal masks."""

    def __init__(self, config: ContextConfig, num_codes: int):
        super().__init__()
        self.embedding = nn.Embedding(num_codes, config.width)
        self.first = weight_norm(nn.Conv2d(config.width, config.width, 3, padding=1))
        self.units = nn.ModuleList(
            ContextUnit(config.width, config.dropout) for _ in range(config.units)
        )

    def forward(self, indices: Int[Tensor, "B h w"]) -> Float[Tensor, "B C h w"]:
        x = self.first(self.embedding(indices).movedim(-1, 1))
        for unit in self.units:
            x = unit(x)
        return x


class ContextUnit(nn.Module):
    """Gated residual unit: x + a * sigmoid(b), where a and b come from two convolutions of x."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.first = weight_norm(nn.Conv2d(width, width, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        self.second = weight_norm(nn.Conv2d(width, 2 * width, 3, padding=1))

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        h = self.second(self.dropout(elu(self.first(elu(x)))))
        return x + glu(h, dim=1)
