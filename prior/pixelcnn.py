"""Gated PixelCNN (van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders",
fig. 2): the prior of VQ-VAE and SQ-VAE.

A vertical stack reads all rows above; a horizontal stack reads the codes to the left in its own
row and, through a 1 x 1 convolution, the vertical stack. Kernels only have the weights that the
paper's masks keep, and padding is on the visible side, so nothing is masked or cropped, and grids
of any shape work. (The public code crops rows by the width and columns by the height.)
"""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding, pad, relu

from prior.base import Prior
from prior.config import PixelCNNConfig, PriorConfig
from prior.incremental_convolution import RowBuffer, context_rows, kernel_of
from prior.sequence import Codes
from prior.stepper import Stepper, StepperFactory

FIRST_KERNEL, KERNEL = 7, 3


class PixelCNNPrior(Prior):
    """A gated PixelCNN p(codes | class) of one level, in raster order.

    With context_channels it models p(codes | context, class), where the context is features of
    another level at every position.
    """

    def __init__(self, config: PriorConfig, context_channels: int = 0):
        super().__init__()
        assert isinstance(config.model, PixelCNNConfig)
        self.config = config
        self.block_layers = (Layer,)
        model = config.model
        self.embedding = nn.Embedding(config.num_codes[0], model.width)
        self.layers = nn.ModuleList(
            Layer(
                model.width,
                model.dropout,
                config.num_classes,
                context_channels,
                is_first=index == 0,
            )
            for index in range(model.layers)
        )
        self.hidden = nn.Conv2d(model.width, model.head, 1)
        self.head = nn.Conv2d(model.head, config.num_codes[0], 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(
        self,
        codes: Codes,
        labels: Int[Tensor, " B"],
        context: Float[Tensor, "B C H W"] | None = None,
    ) -> tuple[Float[Tensor, "B _K _h _w"], ...]:
        vertical = horizontal = self.embedding(codes[0]).movedim(-1, 1)
        for layer in self.layers:
            vertical, horizontal = self._through(layer, vertical, horizontal, labels, context)
        return (self.head(relu(self.hidden(horizontal))),)

    def stepper(self, labels: Int[Tensor, " B"]) -> Stepper:
        return self.prepare()(labels)

    def prepare(self) -> StepperFactory:
        with torch.no_grad():
            layers = [LayerWeights(layer) for layer in self.layers if isinstance(layer, Layer)]
        return partial(PixelCNNStepper, self, layers)


class Layer(nn.Module):
    """A layer of both stacks: gated convolutions with a residual connection.

    The first layer does not read its own position (mask A) and has no residual connection.
    """

    def __init__(
        self,
        width: int,
        dropout: float,
        num_classes: int,
        context_channels: int,
        *,
        is_first: bool,
    ):
        super().__init__()
        self.is_first = is_first
        size = FIRST_KERNEL if is_first else KERNEL
        self.reach = size // 2
        seen = (
            self.reach if is_first else self.reach + 1
        )  # visible rows, and columns of its own row
        self.vertical = nn.Conv2d(width, 2 * width, (seen, size))
        self.horizontal = nn.Conv2d(width, 2 * width, (1, seen))
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.dropout = nn.Dropout(dropout)
        # The last embedding is for no class; an unconditional prior has no embeddings.
        self.condition = nn.Embedding(num_classes + 1, 2 * width) if num_classes else None
        self.context = nn.Conv2d(context_channels, 2 * width, 1) if context_channels else None

    def forward(
        self,
        vertical: Float[Tensor, "B C H W"],
        horizontal: Float[Tensor, "B C H W"],
        labels: Int[Tensor, " B"],
        context: Float[Tensor, "B D H W"] | None,
    ) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B C H W"]]:
        (height, width), reach = vertical.shape[2:], self.reach
        # In the first layer, the last row and column would be of the following position.
        above = self.vertical(pad(vertical, (reach, reach, reach, 0)))[:, :, :height]
        left = self.horizontal(pad(horizontal, (reach, 0)))[..., :width]
        condition = self.of_class(labels)[:, :, None, None]
        if self.context is not None:
            assert context is not None
            condition = condition + self.context(context)
        out = self.out(self.dropout(gate(self.link(above) + left + condition)))
        return gate(above + condition), out if self.is_first else horizontal + out

    def of_class(self, labels: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """Return the bias that the class adds to both stacks before their gates, (B, 2 C)."""
        if self.condition is None:
            return self.out.weight.new_zeros(len(labels), 2 * self.out.out_channels)
        null = self.condition.num_embeddings - 1
        return self.condition(torch.where(labels < 0, null, labels))


def gate(x: Float[Tensor, "B D *space"]) -> Float[Tensor, "B C *space"]:
    """Return tanh(a) * sigmoid(b), where a and b are the two halves of the channels."""
    a, b = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


class LayerWeights:
    """Weights of a layer in the form that steppers use; recreate them after a weight update."""

    def __init__(self, layer: Layer):
        self.layer = layer
        seen = layer.vertical.kernel_size[0]
        self.vertical = kernel_of(layer.vertical, rows=seen)
        self.horizontal = kernel_of(layer.horizontal, columns=seen)
        self.link, self.out = kernel_of(layer.link), kernel_of(layer.out)
        self.context = kernel_of(layer.context) if layer.context is not None else None


class PixelCNNStepper(Stepper):
    """Stepper of a PixelCNN: runs the vertical stack per row, the horizontal one per position."""

    @torch.no_grad()
    def __init__(
        self,
        prior: PixelCNNPrior,
        layers: list[LayerWeights],
        labels: Int[Tensor, " B"],
        context: Float[Tensor, "B C H W"] | None = None,
    ):
        self.prior, self.position = prior, 0
        self.context = context_rows(context)
        self.width = prior.config.grids[0][1]
        like, size = prior.embedding.weight, (len(labels), self.width)
        reach, channels = FIRST_KERNEL // 2, like.shape[1]
        self.codes = RowBuffer(
            like, size, channels, depth=reach + 1, kernel_width=FIRST_KERNEL, taps=reach
        )
        vertical = horizontal = self.codes
        self.steps: list[LayerStep] = []
        for weights in layers:
            self.steps.append(LayerStep(weights, vertical, horizontal, labels))
            vertical, horizontal = (
                RowBuffer(
                    like, size, channels, depth=depth, kernel_width=KERNEL, taps=KERNEL // 2 + 1
                )
                for depth in (KERNEL // 2 + 1, 1)
            )

    @torch.no_grad()
    def next_logits(self, previous: Int[Tensor, " B"] | None) -> Float[Tensor, "B K"]:
        column = self.position % self.width
        if previous is not None:
            self.codes.slots[column - 1].copy_(embedding(previous, self.prior.embedding.weight))
        if column == 0:
            self._begin_row()
        x = self.steps[0].horizontal.slots[column]
        for step in self.steps:
            if not step.weights.layer.is_first:
                step.horizontal.slots[column].copy_(x)
            x = step.step(column, x)
        self.position += 1
        x = relu(self.prior.hidden(x[:, :, None, None]))
        return self.prior.head(x).flatten(1)

    def _begin_row(self) -> None:
        if self.position:
            for step in self.steps:
                step.vertical.advance()
        context = self.context[self.position // self.width] if self.context else None
        for step, following in zip(self.steps, [*self.steps[1:], None], strict=True):
            above = step.begin_row(context)
            if following is not None:
                following.vertical.current.copy_(above)


class LayerStep:
    """Incremental evaluation of one layer, on the row buffers of its two stacks."""

    def __init__(
        self,
        weights: LayerWeights,
        vertical: RowBuffer,
        horizontal: RowBuffer,
        labels: Int[Tensor, " B"],
    ):
        self.weights, self.vertical, self.horizontal = weights, vertical, horizontal
        self.condition = weights.layer.of_class(labels)
        self.bias = weights.vertical.bias.expand(len(labels), -1)
        self.constant = weights.link.bias + weights.horizontal.bias
        self.bases: tuple[Tensor, ...] = ()

    def begin_row(self, context: Float[Tensor, "W B D"] | None) -> Float[Tensor, "B W C"]:
        """Run the vertical stack on a row."""
        weights, condition = self.weights, self.condition
        if weights.context is not None:
            assert context is not None
            condition = condition + weights.context.bias + context @ weights.context.here
        own_row = not weights.layer.is_first
        above = self.vertical.above(weights.vertical, self.bias, with_current=own_row)
        self.bases = (above @ weights.link.here + (self.constant + condition)).unbind(0)
        return gate((above + condition).movedim(0, 2)).mT

    def step(self, column: int, x: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        """Run the horizontal stack at a position; its input x is already in the row buffer."""
        weights = self.weights
        before = self.horizontal.windows[column]
        gated = gate(torch.addmm(self.bases[column], before, weights.horizontal.here))
        out = torch.addmm(weights.out.bias, gated, weights.out.here)
        return out if weights.layer.is_first else out.add_(x)
