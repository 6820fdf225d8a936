"""Layers of PixelSNAIL: blocks of gated units and attention, and causal convolutions."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import elu, glu, pad, scaled_dot_product_attention
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import register_parametrization

from prior.config import PixelSNAILConfig, PriorConfig


@runtime_checkable
class Layers(Protocol):
    """The attributes of a PixelSNAIL that its stepper reads."""

    config: PriorConfig
    embedding: nn.Embedding
    start: nn.Embedding | None
    above: nn.Module
    left: nn.Module
    before: nn.Module
    blocks: nn.ModuleList
    head: nn.Module
    background: Tensor


class Block(nn.Module):
    """A block: gated units with causal convolutions, then causal attention."""

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
    """Causal attention: every position reads itself and all earlier positions.

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
    """Gated residual unit: x + a * sigmoid(b), where a and b come from two causal convolutions.

    aux is added after the first convolution, class and context after the second one.
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
        # The last embedding is for no class; an unconditional prior has no embeddings.
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
    """A causal, weight-normalised k x k convolution.

    It reads the k - 1 rows above and, in its own row, the columns up to its own position.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.padding = (kernel_size // 2, kernel_size // 2, kernel_size - 1, 0)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size)
        later = _Zeroed(kernel_size)
        with torch.no_grad():  # masked weights start at 0, so that the norm never includes them
            self.conv.weight.copy_(later(self.conv.weight))
        weight_norm(self.conv)
        if kernel_size > 1:
            register_parametrization(self.conv, "weight", later)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        return self.conv(pad(x, self.padding))


class _Zeroed(nn.Module):
    """Parametrization that masks later positions: right of the centre in the last row."""

    kept: Tensor

    def __init__(self, kernel_size: int):
        super().__init__()
        kept = torch.ones(kernel_size, kernel_size)
        kept[-1, kernel_size // 2 + 1 :] = 0
        self.register_buffer("kept", kept, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.kept


def embed_labels(table: nn.Embedding, labels: Int[Tensor, " B"]) -> Float[Tensor, "B C 1 1"]:
    """Return the embedding of each label, (B, C, 1, 1); -1 (no class) uses the last one."""
    null = table.num_embeddings - 1
    return table(torch.where(labels < 0, null, labels))[:, :, None, None]
