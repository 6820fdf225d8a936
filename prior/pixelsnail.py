"""PixelSNAIL (Chen et al. 2018): causal convolutions and attention over a grid of codes.

The architecture follows the public VQ-VAE-2 priors: every block has gated residual units, then
attention, and ends with a gated unit, also without attention. Differences: the class is an input
of the stem and of every gated unit. The stem reads strictly earlier codes only, so that all later
layers may read their own position, and no attention row is empty. The stem also reads the previous
code in raster order, so that the start of a row depends on the end of the row above. Codes are
embedded instead of one-hot encoded.
"""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import elu, pad
from torch.nn.utils.parametrizations import weight_norm

from prior.base import Prior
from prior.config import PixelSNAILConfig, PriorConfig
from prior.pixelsnail_layers import Block, embed_labels
from prior.pixelsnail_stepper import PixelSNAILStepper, Weights
from prior.sequence import Codes
from prior.stepper import Stepper, StepperFactory


class PixelSNAILPrior(Prior):
    """A PixelSNAIL p(codes | class) of one level, in raster order.

    With context_channels it models p(codes | context, class), where the context is features of
    another level at every position, read by the causal gated units.
    """

    background: Tensor
    block_layers = (Block,)

    def __init__(self, config: PriorConfig, context_channels: int = 0):
        super().__init__()
        assert isinstance(config.model, PixelSNAILConfig)
        self.config = config
        model, ((height, width),) = config.model, config.grids
        self.embedding = nn.Embedding(config.num_codes[0], model.width)
        # Position (i, j) reads five columns of the two rows above, two columns to the left in
        # three rows, and the previous code.
        self.above = weight_norm(nn.Conv2d(model.width, model.width, (2, 5)))
        self.left = weight_norm(nn.Conv2d(model.width, model.width, (3, 2)))
        self.before = weight_norm(nn.Conv2d(model.width, model.width, 1))
        # The class is also an input here: otherwise a small prior hardly depends on the class.
        self.start = (
            nn.Embedding(config.num_classes + 1, model.width) if config.num_classes else None
        )
        self.blocks = nn.ModuleList(
            Block(model, config.num_classes, context_channels) for _ in range(model.blocks)
        )
        self.head = weight_norm(nn.Conv2d(model.width, config.num_codes[0], 1))
        self.register_buffer("background", _background(height, width), persistent=False)

    def forward(
        self,
        codes: Codes,
        labels: Int[Tensor, " B"],
        context: Float[Tensor, "B C H W"] | None = None,
    ) -> tuple[Float[Tensor, "B _K _h _w"], ...]:
        (indices,) = codes
        x = self.embedding(indices).movedim(-1, 1)
        above = self.above(pad(x, (2, 2, 2, 0)))[:, :, :-1]  # one row down
        left = self.left(pad(x, (2, 0, 2, 0)))[:, :, :, :-1]  # one column right
        before = pad(x.flatten(2), (1, 0))[:, :, :-1].unflatten(2, indices.shape[1:])
        x = above + left + self.before(before)
        if self.start is not None:
            x = x + embed_labels(self.start, labels)
        background = self.background.expand(len(x), -1, -1, -1)
        for block in self.blocks:
            x = self._through(block, x, background, labels, context)
        return (self.head(elu(x)),)

    def stepper(self, labels: Int[Tensor, " B"]) -> Stepper:
        return self.prepare()(labels)

    def prepare(self) -> StepperFactory:
        return partial(PixelSNAILStepper, Weights(self))


def _background(height: int, width: int) -> Float[Tensor, "1 2 H W"]:
    """Return coordinates of each position: (row - H/2) / H, (column - W/2) / W in [-0.5, 0.5)."""
    rows = (torch.arange(height) - height / 2) / height
    columns = (torch.arange(width) - width / 2) / width
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
