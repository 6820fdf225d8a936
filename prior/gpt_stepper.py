"""A GPT's steps: one token at a time, with a KV cache."""

import inspect
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from prior.config import PriorConfig
from prior.stepper import Stepper


@runtime_checkable
class GPTParts(Protocol):
    """The attributes of a GPT prior that its steppers read."""

    config: PriorConfig
    levels: list[int]
    """Level of each position."""
    slices: list[slice]
    """Tokens of each level."""
    body: Any
    """The transformer."""
    head: nn.Linear
    context: nn.Linear | None

    def class_tokens(self, labels: Int[Tensor, " B"]) -> Int[Tensor, " B"]: ...


def cache_argument(prior: GPTParts) -> str:
    """Return the name of the argument by which a prior's transformer takes a cache."""
    arguments = inspect.signature(prior.body.forward).parameters
    # Renamed after transformers 5.17; the old name goes in 5.40.
    return "cache" if "cache" in arguments else "past_key_values"


class KVCacheLayer(DynamicLayer):
    """KV cache of one layer, in memory that is allocated once; attention reads the filled part.

    (In transformers, StaticCache reads the whole memory at every step, and DynamicLayer copies it.)
    """

    memory: Tensor
    keys: Tensor
    values: Tensor

    def __init__(self, length: int):
        super().__init__()
        self.length = length

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        batch, heads, _, size = key_states.shape
        self.memory = key_states.new_empty(2, batch, heads, self.length, size)
        self.keys, self.values = self.memory[:, :, :, :0]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin = self.keys.shape[2]
        end = begin + key_states.shape[2]
        self.memory[0, :, :, begin:end] = key_states
        self.memory[1, :, :, begin:end] = value_states
        self.keys, self.values = self.memory[:, :, :, :end]
        return self.keys, self.values


class GPTStepper(Stepper):
    """Stepper of a GPT prior: one token at a time, with a KV cache."""

    @torch.no_grad()
    def __init__(
        self,
        prior: GPTParts,
        labels: Int[Tensor, " B"],
        context: Float[Tensor, "B C H W"] | None = None,
    ):
        self.prior, self.embedding = prior, prior.body.get_input_embeddings()
        self.tokens = prior.class_tokens(labels)
        self.context = None
        if prior.context is not None:
            assert context is not None
            self.context = prior.context(context.flatten(2).mT)  # (B, H*W, width)
        layers, length = prior.body.config.num_hidden_layers, prior.config.length
        self.cache = Cache(layers=[KVCacheLayer(length) for _ in range(layers)])
        self.cache_argument = cache_argument(prior)
        self.position = 0

    @torch.no_grad()
    def next_logits(self, previous: Int[Tensor, " B"] | None) -> Float[Tensor, "B K"]:
        prior = self.prior
        if previous is not None:
            self.tokens = previous + prior.slices[prior.levels[self.position - 1]].start
        x = self.embedding(self.tokens)
        if self.context is not None:
            x = x + self.context[:, self.position]
        out = prior.body(
            inputs_embeds=x[:, None], use_cache=True, **{self.cache_argument: self.cache}
        )
        weight = prior.head.weight[prior.slices[prior.levels[self.position]]]
        self.position += 1
        return nn.functional.linear(out.last_hidden_state[:, -1], weight)
