"""A GPT prior on the sequence [class, code, code, ...].

The transformer is from the transformers library: GPT-2 for learned positions, or GPT-NeoX with
sequential residuals, which is the same architecture with rotary positions.
"""

from functools import partial
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model, GPTNeoXConfig, GPTNeoXModel
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer
from transformers.pytorch_utils import Conv1D

from prior.base import Prior
from prior.captured_sampling import StartStatic
from prior.config import GPTConfig, PriorConfig
from prior.gpt_stepper import GPTStepper
from prior.sequence import Codes, level_of_positions
from prior.static_gpt import StaticGPTStepper
from prior.stepper import StepperFactory


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

    def stepper(self, labels: Int[Tensor, " B"]) -> GPTStepper:
        return GPTStepper(self, labels)

    def prepare(self) -> StepperFactory:
        return partial(GPTStepper, self)

    def prepare_static(self) -> StartStatic:
        return partial(StaticGPTStepper, self)

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
