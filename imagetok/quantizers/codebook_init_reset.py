"""Codebook initialisation, and codebook reset: replacing codes that are not used."""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal, NamedTuple, assert_never

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from imagetok.config import Section, Steps
from imagetok.processes import without_waiting
from imagetok.quantizers import functional
from imagetok.quantizers.usage import code_counts

Init = Literal["uniform", "normal", "small-normal", "data", "kmeans"]
"""`uniform`: U(-1/K, 1/K), the paper's. `normal`: N(0, 1). `small-normal`: N(0, 0.02^2). `data`:
random encoder outputs of the first step. `kmeans`: cluster centres of these (k-means++ and a few
Lloyd steps)."""

_FEW = 256  # smallest number of encoder outputs kept per micro-batch
_PER_CODE = 8  # encoder outputs per centre of k-means


class NoReset(Section):
    """Codes are never replaced."""

    kind: Literal["none"] = "none"


class RandomReset(Section):
    """Codes whose moving average of uses per step is below `threshold` become encoder outputs.

    Jukebox (Dhariwal et al. 2020, App. A.1).
    """

    kind: Literal["random"] = "random"
    threshold: PositiveFloat = 1.0
    """Uses per step below which a code is replaced."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the moving average of uses."""


class LeastRecentlyUsedReset(Section):
    """Codes that were not used for `timeout` steps become encoder outputs v plus noise.

    The noise is rho |v| N(0, 1), with `noise` = rho. As in the released code of VQ-STE++.
    """

    kind: Literal["least-recently-used"] = "least-recently-used"
    timeout: Steps = 20
    """Steps without use after which a code is replaced."""
    noise: NonNegativeFloat = 0.01
    """rho, the noise relative to the length of the vector."""


class SplitReset(Section):
    """Every `every` steps, the least used code becomes the most used one plus noise.

    This happens only if its uses since the last check are fewer than `threshold` times the most.
    The noise is N(0, noise^2) the first time, then a half, a third, ... of it. HQA (Williams et al.
    2020), which does not state the scale of the noise.
    """

    kind: Literal["split"] = "split"
    every: Steps = 25
    """Steps between two checks of the uses."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.03
    """The share of the most used code's uses below which the least used one is replaced."""
    noise: NonNegativeFloat = 1.0
    """Standard deviation of the noise the first time."""


ResetConfig = Annotated[
    NoReset | RandomReset | LeastRecentlyUsedReset | SplitReset, Field(discriminator="kind")
]


class ResetResult(NamedTuple):
    """A codebook with replaced rows."""

    codebook: Float[Tensor, "K D"]
    rows: Bool[Tensor, " K"]
    """Mask of the replaced rows."""


class Reset(nn.Module, ABC):
    """A rule that replaces codes; it never synchronises with the device."""

    needs_vectors: ClassVar[bool]
    """Whether `stats` has to contain encoder outputs at every step."""

    @abstractmethod
    def forward(
        self, codebook: Float[Tensor, "K D"], stats: dict[str, Tensor], generator: torch.Generator
    ) -> ResetResult:
        """Update the counters for one step and return the codebook with its replaced rows.

        stats: `counts` (K,), uses of the codes in this step, and, if needed, `vectors` (N, D),
        encoder outputs. generator: on the CPU, the same on every rank.
        """


class ReplaceRarelyUsed(Reset):
    """Reset rule of `RandomReset`.

    The average uses of a replaced code are set to `threshold`, so that it is kept if it is used
    that often. Jukebox keeps the old average, so that such a code is replaced again at every step.
    """

    needs_vectors = True
    usage: Tensor

    def __init__(self, num_codes: int, threshold: float, decay: float):
        super().__init__()
        self.threshold = threshold
        self.decay = decay
        self.register_buffer("usage", torch.full((num_codes,), float(threshold)))

    def forward(
        self, codebook: Float[Tensor, "K D"], stats: dict[str, Tensor], generator: torch.Generator
    ) -> ResetResult:
        self.usage.mul_(self.decay).add_(stats["counts"], alpha=1 - self.decay)
        rows = self.usage < self.threshold
        self.usage.masked_fill_(rows, self.threshold)
        drawn = functional.draw_vectors(stats["vectors"], len(codebook), generator)
        return ResetResult(torch.where(rows[:, None], drawn, codebook), rows)


class ReplaceLeastRecentlyUsed(Reset):
    """Reset rule of `LeastRecentlyUsedReset`."""

    needs_vectors = True
    idle: Tensor

    def __init__(self, num_codes: int, timeout: int, noise: float):
        super().__init__()
        self.timeout = timeout
        self.noise = noise
        self.register_buffer("idle", torch.zeros(num_codes, dtype=torch.int64))

    def forward(
        self, codebook: Float[Tensor, "K D"], stats: dict[str, Tensor], generator: torch.Generator
    ) -> ResetResult:
        self.idle.add_(1).masked_fill_(stats["counts"] > 0, 0)
        rows = self.idle >= self.timeout
        self.idle.masked_fill_(rows, 0)
        drawn = functional.draw_vectors(stats["vectors"], len(codebook), generator)
        noise = torch.randn(drawn.shape, generator=generator, dtype=drawn.dtype)
        noise = without_waiting(noise, drawn.device)
        drawn = drawn + self.noise * drawn.norm(dim=1, keepdim=True) * noise
        return ResetResult(torch.where(rows[:, None], drawn, codebook), rows)


class SplitMostUsed(Reset):
    """Reset rule of `SplitReset`."""

    needs_vectors = False
    usage: Tensor
    steps: Tensor
    splits: Tensor

    def __init__(self, num_codes: int, every: int, threshold: float, noise: float):
        super().__init__()
        self.every = every
        self.threshold = threshold
        self.noise = noise
        self.register_buffer("usage", torch.zeros(num_codes))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("splits", torch.tensor(0))

    def forward(
        self, codebook: Float[Tensor, "K D"], stats: dict[str, Tensor], generator: torch.Generator
    ) -> ResetResult:
        self.usage.add_(stats["counts"])
        self.steps.add_(1)
        is_due = self.steps % self.every == 0
        least, most = self.usage.argmin(), self.usage.argmax()
        splits = is_due & (self.usage.amin() < self.threshold * self.usage.amax())
        rows = splits & (torch.arange(len(codebook), device=codebook.device) == least)
        noise = torch.randn(codebook.shape[1], generator=generator, dtype=codebook.dtype)
        noise = without_waiting(noise, codebook.device)
        code = codebook.index_select(0, most[None]) + noise * (self.noise / (self.splits + 1))
        self.splits.add_(splits)
        self.usage.masked_fill_(is_due, 0)
        return ResetResult(torch.where(rows[:, None], code, codebook), rows)


def build_reset(config: ResetConfig, num_codes: int) -> Reset | None:
    """Build the reset rule of a config section, with initial counters; None for no reset."""
    match config:
        case NoReset():
            return None
        case RandomReset():
            return ReplaceRarelyUsed(num_codes, config.threshold, config.decay)
        case LeastRecentlyUsedReset():
            return ReplaceLeastRecentlyUsed(num_codes, config.timeout, config.noise)
        case SplitReset():
            return SplitMostUsed(num_codes, config.every, config.threshold, config.noise)
        case _:
            assert_never(config)


def initial_codebook(num_codes: int, code_dim: int, init: Init) -> Float[Tensor, "K D"]:
    """Return the codebook before the first step, drawn from torch's global generator."""
    if init in ("normal", "small-normal"):
        noise = torch.randn(num_codes, code_dim)
        return noise if init == "normal" else 0.02 * noise
    return torch.empty(num_codes, code_dim).uniform_(-1 / num_codes, 1 / num_codes)


class CodebookInitReset(nn.Module):
    """Initialises a codebook from the encoder outputs of the first step, and resets its codes.

    Its state (whether the codebook is initialised, the counters of the reset) is stored in buffers,
    which only exist if they are used.
    """

    started: Tensor  # stored; steps read `_has_started`, because a buffer may be on a GPU

    def __init__(self, num_codes: int, init: Init, reset: Reset | None):
        super().__init__()
        self.num_codes = num_codes
        self.init: Init = init
        self.reset = reset
        self._has_started = init not in ("data", "kmeans")
        if not self._has_started:
            self.register_buffer("started", torch.tensor(False))
            self.register_load_state_dict_post_hook(_read_started)

    def noise(
        self, h: Float[Tensor, "B D H W"], generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        """Draw the positions whose encoder outputs `stats` keeps, (n,); none if it needs none.

        generator: on the device of h.
        """
        is_waiting = not self._has_started
        if not is_waiting and (self.reset is None or not self.reset.needs_vectors):
            return ()
        kept = max(self.num_codes, _FEW)
        if is_waiting and self.init == "kmeans":
            kept = max(kept, _PER_CODE * self.num_codes)
        positions = len(h) * h.shape[2:].numel()
        if kept >= positions:
            return (torch.arange(positions, device=h.device),)
        order = torch.randperm(positions, generator=generator, device=h.device)
        return (order[:kept],)

    @torch.no_grad()
    def stats(
        self,
        z_e: Float[Tensor, "B D H W"],
        indices: Int[Tensor, "B H W"],
        noise: tuple[Tensor, ...],
    ) -> dict[str, Tensor]:
        """Return the statistics of a micro-batch for `forward`: `counts`, and random `vectors`.

        noise: what `noise` drew. Empty if there is nothing to initialise or reset.
        """
        needs = {}
        if self.reset is not None:
            needs["counts"] = code_counts(indices, self.num_codes).to(z_e.dtype)
        for kept in noise:
            needs["vectors"] = functional.as_vectors(z_e)[kept]
        return needs

    def forward(
        self, codebook: Float[Tensor, "K D"], stats: dict[str, Tensor], generator: torch.Generator
    ) -> ResetResult | None:
        """Initialise or reset the codebook; call it once per optimizer step, after other updates.

        stats: combined over all micro-batches and ranks. generator: on the CPU, the same on every
        rank. Returns None if there is nothing to do.
        """
        if not self._has_started:
            rows = torch.ones(self.num_codes, dtype=torch.bool, device=codebook.device)
            self.started.fill_(True)
            self._has_started = True
            return ResetResult(self._first_codes(stats["vectors"], generator), rows)
        return None if self.reset is None else self.reset(codebook, stats, generator)

    def _first_codes(self, vectors: Tensor, generator: torch.Generator) -> Tensor:
        count = self.num_codes
        if self.init == "kmeans":
            enough = max(count, min(len(vectors), _PER_CODE * count))
            sample = functional.draw_vectors(vectors, enough, generator)
            return functional.k_means(sample, count, generator)
        return functional.draw_vectors(vectors, count, generator)


def _read_started(renewal: CodebookInitReset, keys: object) -> None:
    """Read the flag of a loaded state, which may be from before or after the initialisation."""
    del keys
    renewal._has_started = bool(renewal.started)
