"""A GPT prior on the sequence [class, code, code, ...].

The transformer is from the transformers library: GPT-2 for learned positions, or GPT-NeoX with
sequential residuals, which is the same architecture with rotary positions.
"""

import inspect
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model, GPTNeoXConfig, GPTNeoXModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer
from transformers.pytorch_utils import Conv1D

from prior.base import Prior
from prior.config import GPTConfig, PriorConfig
from prior.sequence import Codes, level_of_positions
from prior.stepper import Stepper, StepperFactory


class GPTPrior(Prior):
    """A GPT whose vocabulary is [level 0 codes | level 1 codes | ... | classes | null class].

    Logits are restricted to the codes of the predicted position's level, so that their
    probabilities sum to one. Position t depends on the class and codes 0..t-1. With
    context_channels, features of another level at the predicted position are added to each token.
    """

    matrix_layers = (Conv1D,)
    block_layers = (GPT2Block, GPTNeoXLayer)

    def __init__(self, config: PriorConfig, context_channels: int = 0):
        super().__init__()
        assert isinstance(config.model, GPTConfig)
        self.config = config
        self.levels = level_of_positions(config.grids)
        ends = list(accumulate(config.num_codes))
        self.slices = [slice(e - k, e) for e, k in zip(ends, config.num_codes, strict=True)]
        self.num_tokens = ends[-1]
        num_tokens = self.num_tokens + config.num_classes + 1
        self.body = _body(config.model, num_tokens, config.length)
        self.head = nn.Linear(config.model.width, self.num_tokens, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)
        self.context = (
            nn.Linear(context_channels, config.model.width, bias=False)
            if context_channels
            else None
        )
        if self.context is not None:
            nn.init.normal_(self.context.weight, std=0.02)

    def forward(
        self,
        codes: Codes,
        labels: Int[Tensor, " B"],
        context: Float[Tensor, "B C H W"] | None = None,
    ) -> tuple[Float[Tensor, "B _K _h _w"], ...]:
        tokens = torch.cat(
            [
                self.class_tokens(labels)[:, None],
                *(level.flatten(1) + s.start for level, s in zip(codes, self.slices, strict=True)),
            ],
            dim=1,
        )[:, :-1]  # nothing is predicted from the last code
        x = self.body.get_input_embeddings()(tokens)
        if self.context is not None:
            assert context is not None
            x = x + self.context(context.flatten(2).mT)
        hidden = self.body(inputs_embeds=x, use_cache=False).last_hidden_state
        parts = hidden.split([h * w for h, w in self.config.grids], dim=1)
        return tuple(
            nn.functional.linear(part, self.head.weight[s]).mT.unflatten(2, grid)
            for part, s, grid in zip(parts, self.slices, self.config.grids, strict=True)
        )

    def recompute_activations(self) -> None:
        body: Any = self.body  # renamed after transformers 5.17
        enable = getattr(body, "activation_checkpointing_enable", None)
        (enable or body.gradient_checkpointing_enable)({"use_reentrant": False})

    def stepper(self, labels: Int[Tensor, " B"]) -> "GPTStepper":
        return GPTStepper(self, labels)

    def prepare(self) -> StepperFactory:
        return partial(GPTStepper, self)

    def class_tokens(self, labels: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Return the first token of every sequence, that of its class; -1 is the null class."""
        null = self.num_tokens + self.config.num_classes
        return torch.where(labels < 0, null, self.num_tokens + labels)


def _body(gpt: GPTConfig, num_tokens: int, length: int) -> GPT2Model | GPTNeoXModel:
    if gpt.positions == "rotary":
        return GPTNeoXModel(
            GPTNeoXConfig(
                vocab_size=num_tokens,
                max_position_embeddings=length,
                hidden_size=gpt.width,
                intermediate_size=4 * gpt.width,
                num_hidden_layers=gpt.layers,
                num_attention_heads=gpt.heads,
                hidden_dropout=gpt.dropout,
                attention_dropout=gpt.dropout,
                use_parallel_residual=False,
                rope_parameters={
                    "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0,
                },
                bos_token_id=None,
                eos_token_id=None,
            )
        )  # fmt: skip
    return GPT2Model(
        GPT2Config(
            vocab_size=num_tokens,
            n_positions=length,
            n_embd=gpt.width,
            n_layer=gpt.layers,
            n_head=gpt.heads,
            resid_pdrop=gpt.dropout,
            embd_pdrop=gpt.dropout,
            attn_pdrop=gpt.dropout,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


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
        prior: GPTPrior,
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
        arguments = inspect.signature(prior.body.forward).parameters
        # Renamed after transformers 5.17; the old name goes in 5.40.
        self.cache_argument = "cache" if "cache" in arguments else "past_key_values"
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
