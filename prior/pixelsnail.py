"""PixelSNAIL (Chen et al. 2018): causal convolutions and attention over a grid of codes.

The layout is that of the public VQ-VAE-2 priors: gated residual units, then attention, in every
block, which ends in a gated unit also without attention. What differs: the class enters the stem
and every gated unit. The stem sees strictly earlier codes only, so every later layer may look
at its own position, too, and no attention row is empty. The stem also reads the code before in
raster order, without which the end of a row stays hidden from the start of the next. Codes enter by
an embedding instead of one-hot planes.
"""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import elu, glu, pad, scaled_dot_product_attention
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import register_parametrization

from prior.base import Prior, Start, Stepper
from prior.config import PixelSNAILConfig, PriorConfig
from prior.sequence import Codes


class PixelSNAILPrior(Prior):
    """p(codes | class) of one level, in raster order; given context_channels, p(codes | context,
    class), with features of another level at every position, which the causal gated units read.
    """

    background: Tensor

    def __init__(self, config: PriorConfig, context_channels: int = 0):
        super().__init__()
        assert isinstance(config.model, PixelSNAILConfig)
        self.config = config
        model, ((height, width),) = config.model, config.grids
        self.embedding = nn.Embedding(config.num_codes[0], model.width)
        # Position (i, j) sees two rows above over five columns, the left of three rows, and the
        # code before it.
        self.above = weight_norm(nn.Conv2d(model.width, model.width, (2, 5)))
        self.left = weight_norm(nn.Conv2d(model.width, model.width, (3, 2)))
        self.before = weight_norm(nn.Conv2d(model.width, model.width, 1))
        # Beside the gates, the class enters here: without it a small prior hardly heeds the class.
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

    def prepare(self) -> Start:
        from prior.pixelsnail_stepper import PixelSNAILStepper, Weights  # it imports this file

        return partial(PixelSNAILStepper, Weights(self))


class Block(nn.Module):
    """Gated units with causal convolutions, then attention over all positions so far."""

    def __init__(self, model: PixelSNAILConfig, num_classes: int, context_channels: int):
        super().__init__()
        width, dropout = model.width, model.dropout
        self.units = nn.ModuleList(
            GatedUnit(
                width,
                width,
                model.kernel_size,
                dropout,
                num_classes,
                context_channels=context_channels,
            )
            for _ in range(model.units)
        )
        self.attention = Attention(model, num_classes) if model.attention else None
        joined = width // 2 if model.attention else width + 2
        self.out = GatedUnit(width, width, 1, dropout, num_classes, aux_channels=joined)

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        background: Tensor,
        labels: Int[Tensor, " B"],
        context: Tensor | None,
    ) -> Float[Tensor, "B C H W"]:
        out = x
        for unit in self.units:
            out = unit(out, labels, context=context)
        if self.attention is None:
            return self.out(out, labels, torch.cat([out, background], dim=1))
        return self.out(out, labels, self.attention(x, out, background, labels))


class Attention(nn.Module):
    """Every position reads itself and all positions before it.

    Keys and values come from [block input, units' output, background], queries from
    [units' output, background].
    """

    def __init__(self, model: PixelSNAILConfig, num_classes: int):
        super().__init__()
        width = model.width
        self.heads, self.dropout = model.heads, model.dropout
        self.key_unit = GatedUnit(2 * width + 2, width, 1, model.dropout, num_classes)
        self.query_unit = GatedUnit(width + 2, width, 1, model.dropout, num_classes)
        self.query = weight_norm(nn.Linear(width + 2, width // 2))
        self.key = weight_norm(nn.Linear(2 * width + 2, width // 2))
        self.value = weight_norm(nn.Linear(2 * width + 2, width // 2))

    def forward(
        self, x: Tensor, out: Tensor, background: Tensor, labels: Int[Tensor, " B"]
    ) -> Float[Tensor, "B D H W"]:
        keys = self.key_unit(torch.cat([x, out, background], dim=1), labels)
        queries = self.query_unit(torch.cat([out, background], dim=1), labels)
        keys, queries = keys.flatten(2).mT, queries.flatten(2).mT  # (B, H*W, channels)
        q, k, v = (
            layer(source).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, H*W, d)
            for layer, source in ((self.query, queries), (self.key, keys), (self.value, keys))
        )
        read = scaled_dot_product_attention(
            q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0
        )
        return read.transpose(2, 3).flatten(1, 2).unflatten(2, out.shape[2:])


class GatedUnit(nn.Module):
    """x + a * sigmoid(b), with a, b from two causal convolutions of x; the first's output also gets
    aux, the second's class and context.
    """

    def __init__(
        self,
        channels: int,
        inner: int,
        kernel_size: int,
        dropout: float,
        num_classes: int,
        *,
        aux_channels: int = 0,
        context_channels: int = 0,
    ):
        super().__init__()
        self.first = CausalConv2d(channels, inner, kernel_size)
        self.aux = weight_norm(nn.Conv2d(aux_channels, inner, 1)) if aux_channels else None
        self.dropout = nn.Dropout(dropout)
        self.second = CausalConv2d(inner, 2 * channels, kernel_size)
        # The last row is for no class; an unconditional prior has none.
        self.condition = nn.Embedding(num_classes + 1, 2 * channels) if num_classes else None
        if self.condition is not None:
            nn.init.normal_(self.condition.weight, std=0.05)
        self.context = (
            weight_norm(nn.Conv2d(context_channels, 2 * channels, 1, bias=False))
            if context_channels
            else None
        )

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        labels: Int[Tensor, " B"],
        aux: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Float[Tensor, "B C H W"]:
        h = self.first(elu(x))
        if self.aux is not None:
            assert aux is not None
            h = h + self.aux(elu(aux))
        h = self.second(self.dropout(elu(h)))
        if self.condition is not None:
            h = h + embed_labels(self.condition, labels)
        if self.context is not None:
            assert context is not None
            h = h + self.context(context)
        return x + glu(h, dim=1)


class CausalConv2d(nn.Module):
    """A weight-normalised k x k convolution over the k rows up to this one, and in this row over
    the columns up to this one.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.padding = (kernel_size // 2, kernel_size // 2, kernel_size - 1, 0)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size)
        later = _Zeroed(kernel_size)
        with torch.no_grad():  # entries that start at 0 stay out of the norm: their gradient is 0
            self.conv.weight.copy_(later(self.conv.weight))
        weight_norm(self.conv)
        if kernel_size > 1:
            register_parametrization(self.conv, "weight", later)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        return self.conv(pad(x, self.padding))


class _Zeroed(nn.Module):
    """A kernel without the entries of later positions: those right of the centre, last row."""

    kept: Tensor

    def __init__(self, kernel_size: int):
        super().__init__()
        kept = torch.ones(kernel_size, kernel_size)
        kept[-1, kernel_size // 2 + 1 :] = 0
        self.register_buffer("kept", kept, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.kept


def embed_labels(table: nn.Embedding, labels: Int[Tensor, " B"]) -> Float[Tensor, "B C 1 1"]:
    """The row of each label; -1, no class, has the last one."""
    null = table.num_embeddings - 1
    return table(torch.where(labels < 0, null, labels))[:, :, None, None]


def _background(height: int, width: int) -> Float[Tensor, "1 2 H W"]:
    """Where a position is: (row - H/2) / H and (column - W/2) / W, in [-0.5, 0.5)."""
    rows = (torch.arange(height) - height / 2) / height
    columns = (torch.arange(width) - width / 2) / width
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
