"""A GPT's steps with the position on the device, for CUDA graphs: a graph for each level."""

from typing import Any

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn
from transformers.cache_utils import Cache

from prior.captured_sampling import StaticStepper
from prior.gpt_stepper import GPTParts, KVCacheLayer, cache_argument


class StaticKVCacheLayer(KVCacheLayer):
    """KV cache of one layer that writes at a position on the device, and returns its whole memory.

    (transformers' own StaticCache counts positions itself, on the device and for each layer.)
    """

    def __init__(self, length: int, position: Int64[Tensor, "1"]):
        super().__init__(length)
        self.position = position

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.memory.zero_()  # masked values must be finite

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.memory.index_copy_(3, self.position, torch.stack([key_states, value_states]))
        keys, values = self.memory
        return keys, values


class StaticGPTStepper(StaticStepper):
    """Static stepper of a GPT. What a step runs depends on its level, whose logits it returns."""

    @torch.no_grad()
    def __init__(self, prior: GPTParts, labels: Int[Tensor, " B"]):
        self.prior, self.embedding = prior, prior.body.get_input_embeddings()
        self.first = prior.class_tokens(labels)
        device, length = self.first.device, prior.config.length
        starts = [prior.slices[level].start for level in prior.levels]
        # The token of the code at position t - 1 is that code plus the t-th of these.
        self.starts = torch.tensor([0, *starts[:-1]], device=device)
        self.places = torch.arange(length, device=device)
        self.written_at = torch.zeros(1, dtype=torch.int64, device=device)
        layers = range(prior.body.config.num_hidden_layers)
        self.cache = Cache(layers=[StaticKVCacheLayer(length, self.written_at) for _ in layers])
        self.argument = cache_argument(prior)

    def pattern(self, step: int) -> int:
        return self.prior.levels[step]

    def next_logits(
        self, previous: Int64[Tensor, " B"], position: Int64[Tensor, "1"], step: int
    ) -> Float[Tensor, "B K"]:
        prior = self.prior
        self.written_at.copy_(position)
        tokens = previous + self.starts.index_select(0, position)
        x = self.embedding(torch.where(position == 0, self.first, tokens))
        mask = x.new_zeros(len(self.places)).masked_fill(self.places > position, -torch.inf)
        out = prior.body(
            inputs_embeds=x[:, None],
            position_ids=position[None],
            attention_mask=mask[None, None, None],
            use_cache=True,
            **{self.argument: self.cache},
        )
        weight = prior.head.weight[prior.slices[self.pattern(step)]]
        return nn.functional.linear(out.last_hidden_state[:, -1], weight)
