"""Why a codebook is used as it is: counts, vectors, certainty, and a verdict in words."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from imagetok.data import ImageDataset
from imagetok.evaluation.batches import batches
from imagetok.evaluation.code_accumulator import CodeAccumulator
from imagetok.processes import full_float32
from imagetok.quantizers import codebook_use, level_name
from imagetok.tokenizers import Tokenizer

RARE_SHARE = 0.01
"""A code used less than this share of equal use is nearly dead."""
COLLAPSED, UNDERUSED = 0.05, 0.25
"""Perplexities below these shares of K are called so."""
LOGIT_MARKS = (15.0, 18.0, 20.0)
"""The usual float32 form of the Dirichlet KL has lost its gradient at 18."""


@dataclass(frozen=True)
class LevelHealth:
    """One level's codebook over a split."""

    num_codes: int
    codes_used: int
    rare_codes: int
    """Used, but less than RARE of equal use."""
    top_share: float
    """Of all positions, those with the most used code."""
    perplexity: float
    perplexity_batch128: float
    """Mean over batches of 128 images, as in the EdVAE paper's tables; lower."""
    not_finite: tuple[int, ...]
    """Codes whose vector holds NaN or infinity."""
    copies: int
    """Codes whose vector is that of a code before them."""
    norms: tuple[float, float, float] | None
    """Least, median and largest of the vectors, of those that are finite; None without any."""
    counts: Int[Tensor, " K"] = field(repr=False)
    can_start_and_reset: bool = True
    """Whether its config has the keys `init` and `reset`."""
    entropy: float | None = None
    """Of the code probabilities, mean over positions, in nats; None without probabilities."""
    entropy_std: float | None = None
    uncertainty: float | None = None
    variance: float | None = None
    """Of a stochastic quantizer's Gaussian."""
    encoder_norms: tuple[float, float, float] | None = None
    """Least, median and largest of what nearest codes are looked up for."""
    logits_above: tuple[float, ...] = ()
    """The share of positions whose largest logit is above each of LOGIT_MARKS."""

    @property
    def dead_codes(self) -> int:
        """Never used in the split."""
        return self.num_codes - self.codes_used


@dataclass(frozen=True)
class Verdict:
    """What is the matter with one level, and what to try."""

    state: str
    """`healthy`, `underused`, `collapsed` or `broken`."""
    sentences: tuple[str, ...]


@full_float32()
def codebook_health(tokenizer: Tokenizer, dataset: ImageDataset) -> tuple[LevelHealth, ...]:
    """Every level's health over all images of `dataset`, each counted once."""
    accumulator = CodeAccumulator(tokenizer.num_codes, keeps_maps=True)
    for batch in batches(tokenizer, dataset, work="counting codes"):
        accumulator.add(*tokenizer.encode_with_certainty(batch.images, generator=batch.draw()))
    values = accumulator.values()
    keys = set(type(tokenizer.config.levels[0]).model_fields)
    return tuple(
        replace(
            _health(
                counts,
                statistics.fmean(accumulator.perplexities[level]),
                tokenizer.codebook(level),
                _of_level(values, level, len(accumulator.counts)),
            ),
            can_start_and_reset={"init", "reset"} <= keys,
        )
        for level, counts in enumerate(accumulator.counts)
    )


@full_float32()
def code_change_rates(
    earlier: Tokenizer, later: Tokenizer, dataset: ImageDataset
) -> tuple[float, ...]:
    """The share of positions of each level whose code the later tokenizer chose differently."""
    changed, positions = [0] * len(later.num_codes), [0] * len(later.num_codes)
    for batch in batches(later, dataset):
        before, after = (
            model.encode(batch.images, generator=batch.draw()) for model in (earlier, later)
        )
        for level, (one, other) in enumerate(zip(before, after, strict=True)):
            changed[level] += int((one != other).sum())
            positions[level] += other.numel()
    return tuple(c / max(1, n) for c, n in zip(changed, positions, strict=True))


def evaluations(
    records: Sequence[Mapping[str, Any]], level: int, num_levels: int
) -> list[tuple[float, float]]:
    """(uncertainty, perplexity of batches of 128) of every evaluation that has both."""
    names = [level_name(name, level, num_levels) for name in ("uncertainty", "perplexity_batch128")]
    found = [[float(r[name]) for name in names] for r in records if all(n in r for n in names)]
    return [(uncertainty, perplexity) for uncertainty, perplexity in found]


def uncertainty_perplexity_correlation(
    records: Sequence[Mapping[str, Any]], level: int, num_levels: int
) -> float | None:
    """Pearson's correlation of uncertainty and held-out perplexity over training (EdVAE, Fig. 3).

    None when fewer than three evaluations have both, or either does not vary.
    """
    points = evaluations(records, level, num_levels)
    if len(points) < 3:
        return None
    found = float(torch.corrcoef(torch.tensor(points, dtype=torch.float64).T)[0, 1])
    return found if math.isfinite(found) else None


def collapse_onset(
    records: Sequence[Mapping[str, Any]], level: int, num_levels: int, threshold: float
) -> int | None:
    """The training step from which the perplexity of batches stayed below `threshold`.

    records: what metrics.jsonl holds. None when it ends above, or was not logged.
    """
    name = level_name("batch_perplexity", level, num_levels)
    steps = [(int(r["step"]), float(r[name])) for r in records if name in r]
    if not steps or steps[-1][1] >= threshold:
        return None
    last_above = max((i for i, (_, value) in enumerate(steps) if value >= threshold), default=-1)
    return steps[last_above + 1][0]


def codebook_state(
    perplexity: float, num_codes: int
) -> Literal["healthy", "underused", "collapsed"]:
    """Collapsed: a perplexity below COLLAPSED of K; underused: below UNDERUSED of it."""
    share = perplexity / num_codes
    return "healthy" if share >= UNDERUSED else "underused" if share >= COLLAPSED else "collapsed"


def verdict_of(health: LevelHealth, collapsed_at: int | None = None) -> Verdict:
    """A verdict: what is wrong first, what may have caused it, what to try.

    collapsed_at: the training step that `collapse_onset` found, if the run is known.
    """
    faults = _faults(health)
    if faults:
        return Verdict("broken", tuple(faults))
    state = codebook_state(health.perplexity, health.num_codes)
    sentences = [
        f"{health.codes_used} of {health.num_codes} codes are used, as evenly as "
        f"{health.perplexity:.0f} codes would be if each were used alike."
    ]
    if state == "healthy":
        return Verdict(state, tuple(sentences))
    if collapsed_at is not None:
        sentences.append(f"It has been so since step {collapsed_at:,} of the training.")
    sentences += _causes(health)
    return Verdict(state, tuple(sentences))


def _health(
    counts: Tensor,
    perplexity_batch128: float,
    codebook: Float[Tensor, "K D"] | None,
    maps: Mapping[str, Tensor],
) -> LevelHealth:
    use, total = codebook_use(counts), int(counts.sum())
    vectors = torch.zeros(0, 1) if codebook is None else codebook.detach().cpu().double()
    finite = vectors.isfinite().all(dim=1)
    norms = vectors[finite].norm(dim=1)
    logits = maps.get("top_logit")
    entropy = maps.get("entropy")
    return LevelHealth(
        num_codes=use.num_codes,
        codes_used=use.codes_used,
        rare_codes=int(((counts > 0) & (counts < RARE_SHARE * total / use.num_codes)).sum()),
        top_share=float(counts.max() / max(1, total)),
        perplexity=use.perplexity,
        perplexity_batch128=perplexity_batch128,
        not_finite=tuple((~finite).nonzero().flatten().tolist()),
        copies=int(finite.sum()) - len(vectors[finite].unique(dim=0)),
        norms=_spread(norms),
        counts=counts,
        entropy=_mean(entropy),
        entropy_std=None if entropy is None else float(entropy.double().std()),
        uncertainty=_mean(maps.get("uncertainty")),
        variance=_mean(maps.get("variance")),
        encoder_norms=_spread(maps.get("encoder_norm", torch.zeros(0))),
        logits_above=()
        if logits is None
        else tuple(float((logits > mark).double().mean()) for mark in LOGIT_MARKS),
    )


def _of_level(maps: Mapping[str, Tensor], level: int, num_levels: int) -> dict[str, Tensor]:
    """The maps of one level, without the level in their names."""
    names = ("entropy", "top_logit", "uncertainty", "variance", "encoder_norm")
    found = {name: maps.get(level_name(name, level, num_levels)) for name in names}
    return {name: values for name, values in found.items() if values is not None}


def _mean(values: Tensor | None) -> float | None:
    return None if values is None else float(values.double().mean())


def _spread(norms: Tensor) -> tuple[float, float, float] | None:
    if len(norms) == 0:
        return None
    return (float(norms.min()), float(norms.median()), float(norms.max()))


def _faults(health: LevelHealth) -> list[str]:
    sentences = []
    if health.not_finite:
        rows = ", ".join(map(str, health.not_finite[:5]))
        more = "" if len(health.not_finite) <= 5 else ", ..."
        sentences.append(
            f"{len(health.not_finite)} codes hold NaN or infinity (row {rows}{more}): they can "
            "poison every image they are chosen for. Go back to an earlier checkpoint, and lower "
            "the learning rate or set train.clip_norm."
        )
    if health.copies:
        sentences.append(
            f"{health.copies} codes are exact copies of others and can never add information. "
            "A start from too few encoder outputs makes them (init: data or kmeans on a small "
            "first batch), or weights that were edited; train with a larger batch or a reset."
        )
    return sentences


def _causes(health: LevelHealth) -> list[str]:
    if health.entropy is None and not health.can_start_and_reset:
        return [
            f"{health.dead_codes} codes were never chosen. Fewer codes, or another quantizer, fit "
            "better: this one has no start from data and no reset of idle codes."
        ]
    if health.entropy is None:
        return [
            f"{health.dead_codes} codes were never chosen. The encoder moves away from codes that "
            "get no pull: start them where its outputs are (init: kmeans) and renew idle ones "
            "(reset: least-recently-used); a smaller commitment weight lets it spread."
        ]
    share = health.entropy / math.log(health.num_codes)
    if share > 0.8:
        return [
            f"The code probabilities are nearly uniform (entropy {health.entropy:.2f} of "
            f"{math.log(health.num_codes):.2f} nats), so that the largest is chance. Lower the "
            "weight of the KL, let the temperature fall further, or train longer."
        ]
    sentences = [
        f"{health.dead_codes} codes were never the most likely (entropy {health.entropy:.2f} of "
        f"{math.log(health.num_codes):.2f} nats). How many codes live is settled early: start the "
        "temperature higher (objective.temperature.start: 2) and let it fall as far."
    ]
    if health.logits_above[1] > 0.05:
        advice = (
            "kl: torch has no gradient there (use kl: exact)"
            if health.uncertainty is not None
            else "a larger weight of the KL keeps it open"
        )
        sentences.append(
            f"{health.logits_above[1]:.0%} of the largest logits are above {LOGIT_MARKS[1]:.0f}: "
            f"the encoder has decided, and {advice}."
        )
    return sentences
