"""Exact incremental sampling from PixelSNAIL: each position computes only new values.

Weight norm is folded and kernels are rearranged once for all steppers; layers with the same input
are merged to one matrix. The inputs of a block's 1 x 1 layers are kept in two buffers: [block
input, units' output, background], and the ELU of this together with that of the attention output.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import elu, elu_, embedding, glu, pad

from prior.incremental_convolution import Kernel, RowBuffer, as_kernel, context_rows, kernel_of
from prior.pixelsnail_layers import Attention, Block, GatedUnit, Layers, embed_labels
from prior.stepper import Stepper


class Unit(NamedTuple):
    """Weights of a gated unit."""

    first: Kernel
    second: Kernel
    condition: nn.Embedding | None
    context: Float[Tensor, "C D"] | None


class Reading(NamedTuple):
    """Weights of an attention layer."""

    first: Kernel
    """First layers of the key and query units, merged; the latter ignores the block's input."""
    key_unit: Unit
    query_unit: Unit
    key_value: Kernel
    query: Kernel
    """Query projection, scaled by 1 / sqrt(size of a head)."""
    heads: int


class BlockWeights(NamedTuple):
    """Weights of a block."""

    units: list[Unit]
    reading: Reading | None
    out: Unit


class Weights:
    """Weights of a PixelSNAIL in the form steppers use; recreate them after a weight update."""

    @torch.no_grad()
    def __init__(self, prior: Layers):
        self.grid = prior.config.grids[0]
        self.codes = prior.embedding.weight
        self.start = prior.start
        layers = (prior.above, prior.left, prior.before)
        above, left, before = (layer for layer in layers if isinstance(layer, nn.Conv2d))
        self.before = kernel_of(before).here
        # One 3 x 5 kernel: two rows above, and two columns to the left in all three rows.
        stem = pad(above.weight, (0, 0, 0, 1)) + pad(left.weight, (0, 3))
        stem[:, :, 2, 1] += self.before.t()
        biases = [kernel_of(layer).bias for layer in layers]
        self.stem = as_kernel(stem, torch.stack(biases).sum(dim=0), rows=2, columns=2)
        self.blocks = [_block(block) for block in prior.blocks if isinstance(block, Block)]
        self.head = kernel_of(prior.head)
        self.background = prior.background.flatten(2)[0].t().contiguous()  # (H*W, 2)


def _block(block: Block) -> BlockWeights:
    units = [_unit(unit) for unit in block.units if isinstance(unit, GatedUnit)]
    assert block.out.aux is not None
    out, joined = _unit(block.out), kernel_of(block.out.aux)
    aux, first = joined.here, out.first.here
    channels = len(first)
    # Its input is the ELU of [units' output, background] and, if present, the attention output.
    if block.attention is None:  # aux has the same input
        here = aux.clone()
        here[:channels] += first
    else:
        here = torch.cat([first, first.new_zeros(2, channels), aux])
    both = Kernel(out.first.above, here, out.first.bias + joined.bias)
    reading = _reading(block.attention) if block.attention is not None else None
    return BlockWeights(units, reading, out._replace(first=both))


def _reading(attention: Attention) -> Reading:
    key_unit, query_unit = _unit(attention.key_unit), _unit(attention.query_unit)
    missing = len(key_unit.first.here) - len(query_unit.first.here)
    both = [key_unit.first.here, pad(query_unit.first.here, (0, 0, missing, 0))]
    first = Kernel(
        key_unit.first.above,
        torch.cat(both, dim=1),
        torch.cat([key_unit.first.bias, query_unit.first.bias]),
    )
    query, keys, values = (
        kernel_of(layer) for layer in (attention.query, attention.key, attention.value)
    )
    scale = 1 / math.sqrt(len(query.bias) // attention.heads)
    return Reading(
        first,
        key_unit,
        query_unit,
        Kernel(
            keys.above,
            torch.cat([keys.here, values.here], dim=1),
            torch.cat([keys.bias, values.bias]),
        ),
        Kernel(query.above, query.here * scale, query.bias * scale),
        attention.heads,
    )


def _unit(unit: GatedUnit) -> Unit:
    size = unit.first.conv.kernel_size[0]
    first, second = (
        kernel_of(conv, rows=size - 1, columns=size // 2 + 1)
        for conv in (unit.first.conv, unit.second.conv)
    )
    context = unit.context.weight if isinstance(unit.context, nn.Conv2d) else None
    if context is not None:
        context = context.flatten(1).t().contiguous()
    return Unit(first, second, unit.condition, context)


def _constant(
    bias: Float[Tensor, " D"], table: nn.Embedding | None, labels: Int[Tensor, " B"]
) -> Float[Tensor, "B D"]:
    """Return the bias plus the embedding of the class, (B, D)."""
    if table is None:
        return bias.expand(len(labels), -1)
    return bias + embed_labels(table, labels).flatten(1)


class PixelSNAILStepper(Stepper):
    """Stepper of a PixelSNAIL: computes the features of one position from the earlier ones."""

    @property
    def attention(self) -> "type[AttentionStep]":
        """How attention is evaluated."""
        return AttentionStep

    @torch.no_grad()
    def __init__(
        self,
        weights: Weights,
        labels: Int[Tensor, " B"],
        context: Float[Tensor, "B C H W"] | None = None,
    ):
        self.weights, self.position = weights, 0
        self.context = context_rows(context)
        height, self.width = weights.grid
        batch, channels = len(labels), len(weights.stem.bias)
        like, size = weights.codes, (batch, self.width)
        self.codes = RowBuffer(like, size, channels, depth=3, kernel_width=5, taps=2)
        self.constant = _constant(weights.stem.bias, weights.start, labels)
        self.stem: tuple[Tensor, ...] = ()
        inputs = like.new_zeros(len(weights.blocks), batch, 2 * channels + 2)
        self.backgrounds = inputs[:, :, 2 * channels :]
        self.result = like.new_zeros(batch, channels)
        ends = [*(following[:, :channels] for following in inputs[1:]), self.result]
        self.first_input = inputs[0][:, :channels]
        self.blocks = [
            BlockStep(block, labels, self.width, height * self.width, both, end, self.attention)
            for block, both, end in zip(weights.blocks, inputs, ends, strict=True)
        ]

    @torch.no_grad()
    def next_logits(self, previous: Int[Tensor, " B"] | None) -> Float[Tensor, "B K"]:
        weights, column = self.weights, self.position % self.width
        if previous is not None:
            self.codes.slots[column - 1].copy_(embedding(previous, weights.codes))
        if column == 0:
            self.begin_row()
        logits = self.logits(self.position, column, weights.background[self.position])
        self.position += 1
        return logits

    def logits(self, position: Any, column: int, background: Tensor) -> Float[Tensor, "B K"]:
        weights = self.weights
        torch.addmm(
            self.stem[column], self.codes.windows[column], weights.stem.here, out=self.first_input
        )
        self.backgrounds.copy_(background)
        for block in self.blocks:
            block.step(position, column)
        return torch.addmm(weights.head.bias, elu(self.result), weights.head.here)

    def begin_row(self) -> None:
        before = self.codes.slots[-1]  # zeros at the first position
        is_first = self.position == 0
        if not is_first:
            self.codes.advance()
        stem = self.codes.above(self.weights.stem, self.constant)
        stem[0].addmm_(before, self.weights.before)
        self.stem = stem.unbind(0)
        context = self.context[self.position // self.width] if self.context else None
        for block in self.blocks:
            block.begin_row(context, advance=not is_first)


class BlockStep:
    """Incremental evaluation of one block.

    inputs: buffer (B, 2 C + 2) of [block input, units' output, background]. result: buffer (B, C)
    that the output is written to.
    """

    def __init__(
        self,
        weights: BlockWeights,
        labels: Int[Tensor, " B"],
        width: int,
        length: int,
        inputs: Float[Tensor, "B N"],
        result: Float[Tensor, "B C"],
        attention: "type[AttentionStep]",
    ):
        channels = result.shape[1]
        self.weights, self.inputs, self.result = weights, inputs, result
        self.units = [UnitStep(unit, labels, width) for unit in weights.units]
        self.end = inputs[:, channels : 2 * channels]
        between = torch.empty_like(result)
        self.sources = [inputs[:, :channels], *(between for _ in weights.units[1:])]
        read = channels // 2 if weights.reading else 0
        activated = inputs.new_zeros(len(labels), 2 * channels + 2 + read)
        self.activated = activated[:, : 2 * channels + 2]
        self.joined = activated[:, channels:]
        self.constant = _constant(weights.out.second.bias, weights.out.condition, labels)
        self.attention = (
            attention(weights.reading, labels, length, inputs, activated)
            if weights.reading
            else None
        )

    def begin_row(self, context: Float[Tensor, "W B C"] | None, *, advance: bool) -> None:
        for unit in self.units:
            unit.begin_row(context, advance=advance)

    def step(self, position: Any, column: int) -> None:
        for unit, source, end in zip(
            self.units, self.sources, [*self.sources[1:], self.end], strict=True
        ):
            unit.step(column, source, end)
        elu_(self.activated.copy_(self.inputs))
        if self.attention is not None:
            self.attention.step(position)
        out = self.weights.out
        h = elu_(torch.addmm(out.first.bias, self.joined, out.first.here))
        gate = torch.addmm(self.constant, h, out.second.here)
        torch.add(self.end, glu(gate, dim=1), out=self.result)


class UnitStep:
    """Incremental evaluation of a gated unit with causal convolutions."""

    def __init__(self, weights: Unit, labels: Int[Tensor, " B"], width: int):
        self.weights = weights
        inner, channels = len(weights.first.bias), len(weights.second.bias) // 2
        taps = len(weights.first.here) // channels
        self.input, self.inner = (
            RowBuffer(
                weights.first.bias,
                (len(labels), width),
                count,
                depth=2 * taps - 1,
                kernel_width=2 * taps - 1,
                taps=taps,
            )
            for count in (channels, inner)
        )
        self.first_constant = weights.first.bias.expand(len(labels), -1)
        self.second_constant = _constant(weights.second.bias, weights.condition, labels)
        self.first: tuple[Tensor, ...] = ()
        self.second: tuple[Tensor, ...] = ()

    def begin_row(self, context: Float[Tensor, "W B C"] | None, *, advance: bool) -> None:
        if advance:
            self.input.advance()
            self.inner.advance()
        self.first = self.input.above(self.weights.first, self.first_constant).unbind(0)
        constant = self.second_constant
        if self.weights.context is not None:
            assert context is not None
            constant = constant + context @ self.weights.context
        self.second = self.inner.above(self.weights.second, constant).unbind(0)

    def step(self, column: int, x: Tensor, out: Tensor) -> None:
        first, second = self.weights.first.here, self.weights.second.here
        elu_(self.input.slots[column].copy_(x))
        h = self.inner.slots[column]
        elu_(torch.addmm(self.first[column], self.input.windows[column], first, out=h))
        gate = torch.addmm(self.second[column], self.inner.windows[column], second)
        torch.add(x, glu(gate, dim=1), out=out)


class AttentionStep:
    """Incremental evaluation of causal attention.

    Reads the block's `inputs` and their ELU, the left part of `activated`, and writes the ELU of
    the attention output to the right part.
    """

    def __init__(
        self,
        weights: Reading,
        labels: Int[Tensor, " B"],
        length: int,
        inputs: Tensor,
        activated: Tensor,
    ):
        self.weights = weights
        batch, size = inputs.shape
        width, heads = len(weights.query.bias), weights.heads
        self.inputs, self.query_inputs = inputs, inputs[:, size - len(weights.query.here) :]
        self.activated, self.read = activated[:, :size], activated[:, size:]
        key, query = weights.key_unit, weights.query_unit
        self.key_constant = _constant(key.second.bias, key.condition, labels)
        self.query_constant = _constant(query.second.bias, query.condition, labels)
        self.key_value = inputs.new_zeros(batch, 2 * width)
        self.by_head = self.key_value.view(batch, 2, heads, -1).transpose(0, 1)
        # Positions innermost, so that the products below run over long contiguous rows.
        self.past = inputs.new_zeros(2, batch, heads, width // heads, length)
        self.keys, self.values = self.past.flatten(1, 2)

    def step(self, position: Any) -> None:
        """position: an int, or of a subclass what its `_attend` takes."""
        weights = self.weights
        h = elu_(torch.addmm(weights.first.bias, self.activated, weights.first.here))
        h_key, h_query = h.chunk(2, dim=1)
        gate = torch.addmm(self.key_constant, h_key, weights.key_unit.second.here)
        keys = glu(gate, dim=1).add_(self.inputs)
        gate = torch.addmm(self.query_constant, h_query, weights.query_unit.second.here)
        queries = glu(gate, dim=1).add_(self.query_inputs)
        torch.addmm(weights.key_value.bias, keys, weights.key_value.here, out=self.key_value)
        query = torch.addmm(weights.query.bias, queries, weights.query.here)
        query = query.view(len(self.keys), 1, -1)  # (B * heads, 1, size of a head)
        elu_(self.read.copy_(self._attend(query, position).view(self.read.shape)))

    def _attend(self, query: Tensor, position: Any) -> Tensor:
        """Remember keys and values of the position; return what the query reads of all so far."""
        self.past[..., position].copy_(self.by_head)
        seen = position + 1
        scores = torch.bmm(query, self.keys.narrow(2, 0, seen)).softmax(dim=2)
        return torch.bmm(scores, self.values.narrow(2, 0, seen).mT)
