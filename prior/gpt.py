"""A GPT prior: transformers' GPT-2 body on the sequence [class, code, code, ...]."""

from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model
from transformers.cache_utils import Cache, DynamicCache

from prior.base import Prior, Stepper
from prior.config import GPTConfig, PriorConfig
from prior.sequence import Codes, level_of_positions


class GPTPrior(Prior):
    """One embedding table [level 0 codes | level 1 codes | ... | classes | null].

    The output is sliced to the level of the position that is predicted, so that probabilities sum
    to one over its codes. Position t reads the class and codes 0..t-1.
    """

    def __init__(self, config: PriorConfig):
        super().__init__()
        assert isinstance(config.model, GPTConfig)
        self.config = config
        self.levels = level_of_positions(config.grids)
        ends = list(accumulate(config.num_codes))
        self.slices = [slice(e - k, e) for e, k in zip(ends, config.num_codes, strict=True)]
        self.num_tokens = ends[-1]
        gpt = config.model
        self.body = GPT2Model(
            GPT2Config(
                vocab_size=self.num_tokens + config.num_classes + 1,
                n_positions=config.length,
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
        self.head = nn.Linear(gpt.width, self.num_tokens, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(
        self, codes: Codes, labels: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B _K _h _w"], ...]:
        tokens = torch.cat(
            [
                self.class_tokens(labels)[:, None],
                *(level.flatten(1) + s.start for level, s in zip(codes, self.slices, strict=True)),
            ],
            dim=1,
        )[:, :-1]  # the last code predicts nothing
        hidden = self.body(input_ids=tokens, use_cache=False).last_hidden_state
        parts = hidden.split([h * w for h, w in self.config.grids], dim=1)
        return tuple(
            nn.functional.linear(part, self.head.weight[s]).mT.unflatten(2, grid)
            for part, s, grid in zip(parts, self.slices, self.config.grids, strict=True)
        )

    def stepper(self, labels: Int[Tensor, " B"]) -> "GPTStepper":
        return GPTStepper(self, self.class_tokens(labels))

    def class_tokens(self, labels: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The first token of every sequence; -1 is the null class."""
        null = self.num_tokens + self.config.num_classes
        return torch.where(labels < 0, null, self.num_tokens + labels)


class GPTStepper(Stepper):
    """Runs one token at a time with cached keys and values."""

    def __init__(self, prior: GPTPrior, first: Int[Tensor, " B"]):
        self.prior = prior
        self.tokens = first
        self.cache: Cache = DynamicCache()
        self.position = 0

    def next_logits(self, previous: Int[Tensor, " B"] | None) -> Float[Tensor, "B K"]:
        prior = self.prior
        if previous is not None:
            self.tokens = previous + prior.slices[prior.levels[self.position - 1]].start
        out = prior.body(input_ids=self.tokens[:, None], past_key_values=self.cache, use_cache=True)
        weight = prior.head.weight[prior.slices[prior.levels[self.position]]]
        self.position += 1
        return nn.functional.linear(out.last_hidden_state[:, -1], weight)
