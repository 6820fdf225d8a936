"""Codebook health: utilisation, code vectors, encoder certainty, and a verdict on collapse."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from imagetok.data import ImageDataset
from imagetok.evaluation.batches import batches
from imagetok.evaluation.code_accumulator import CodeAccumulator
from imagetok.evaluation.earlier_measures import BATCH_PERPLEXITY, BATCH_PERPLEXITY_ALL
from imagetok.precision import full_float32
from imagetok.quantizers import codebook_use, level_name
from imagetok.suggestions import are, counted
from imagetok.tokenizers import Tokenizer

RARE_SHARE = 0.01
"""A used code counts as rarely used below this share of its uses under equal use."""
COLLAPSED, UNDERUSED = 0.05, 0.25
"""A codebook is collapsed or underused if its perplexity is below this share of K."""
LOGIT_MARKS = (15.0, 18.0, 20.0)
"""Thresholds of the largest logit; above 18, the usual float32 Dirichlet KL has no gradient."""


@dataclass(frozen=True)
class LevelHealth:
    """Measures of the codebook of one level over a split."""

    num_codes: int
    codes_used: int
    rare_codes: int
    """Number of codes that are used, but less than RARE_SHARE of equal use."""
    top_share: float
    """Share of all positions that have the most used code."""
    perplexity: float
    perplexity_batch128: float
    """Mean perplexity of whole batches of 128 images, as in the EdVAE paper; it is lower."""
    perplexity_batch32: float
    """Mean perplexity of batches of 32 images, as in the SQ-VAE code; still lower."""
    not_finite: tuple[int, ...]
    """Codes whose vector contains NaN or infinity."""
    copies: int
    """Number of codes that duplicate an earlier code."""
    norms: tuple[float, float, float] | None
    """Smallest, median and largest norm of the finite code vectors; None if there are none."""
    counts: Int[Tensor, " K"] = field(repr=False)
    can_start_and_reset: bool = True
    """Whether the quantizer's config has the keys `init` and `reset`."""
    starts_from_data: bool = False
    """Whether the codes start from encoder outputs."""
    reset: str | None = None
    """Kind of the reset of unused codes; None without one."""
    has_averages: bool = False
    """Whether codes are moving averages of encoder outputs, which no gradient trains."""
    has_entropy_penalty: bool = False
    """Whether the quantizer's config has the key `entropy_temperature`."""
    entropy: float | None = None
    """Mean entropy of the code probabilities in nats; None without probabilities."""
    entropy_std: float | None = None
    uncertainty: float | None = None
    variance: float | None = None
    """Mean variance of a stochastic quantizer's Gaussian; None for other quantizers."""
    encoder_norms: tuple[float, float, float] | None = None
    """Smallest, median and largest norm of encoder outputs, for nearest-neighbour quantizers."""
    logits_above: tuple[float, ...] = ()
    """Shares of positions whose largest logit is above each of LOGIT_MARKS."""

    @property
    def dead_codes(self) -> int:
        """Number of codes that never occur in the split."""
        return self.num_codes - self.codes_used


@dataclass(frozen=True)
class Verdict:
    """Verdict on the codebook of one level, with causes and remedies."""

    state: str
    """`healthy`, `underused`, `collapsed`, `undetermined` or `broken`."""
    sentences: tuple[str, ...]


@full_float32()
def codebook_health(tokenizer: Tokenizer, dataset: ImageDataset) -> tuple[LevelHealth, ...]:
    """Measure the codebook of every level over all images of `dataset`."""
    accumulator = CodeAccumulator(tokenizer.num_codes, keeps_maps=True)
    for batch in batches(tokenizer, dataset, work="counting codes"):
        accumulator.add(*tokenizer.encode_with_certainty(batch.images, generator=batch.draw()))
    values = accumulator.values()
    return tuple(
        replace(
            _health(
                counts,
                tuple(accumulator.batch_perplexity(level, size) for size in (128, 32)),
                tokenizer.codebook(level),
                _of_level(values, level, len(accumulator.counts)),
            ),
            **_training_of(tokenizer.config.levels[0]),
        )
        for level, counts in enumerate(accumulator.counts)
    )


@full_float32()
def code_change_rates(
    earlier: Tokenizer, later: Tokenizer, dataset: ImageDataset
) -> tuple[float, ...]:
    """Return per level the share of code positions at which two tokenizers differ."""
    changed, positions = [0] * len(later.num_codes), [0] * len(later.num_codes)
    for batch in batches(later, dataset):
        before, after = (
            model.encode(batch.images, generator=batch.draw()) for model in (earlier, later)
        )
        for level, (one, other) in enumerate(zip(before, after, strict=True)):
            changed[level] += int((one != other).sum())
            positions[level] += other.numel()
    return tuple(c / max(1, n) for c, n in zip(changed, positions, strict=True))


def uncertainty_and_perplexity(
    records: Sequence[Mapping[str, Any]], level: int, num_levels: int
) -> list[tuple[float, float]]:
    """Return (uncertainty, perplexity of batches of 128) of every evaluation that has both.

    The perplexity is that of earlier versions if no evaluation has another.
    """
    for perplexity in (BATCH_PERPLEXITY, BATCH_PERPLEXITY_ALL):
        names = [level_name(name, level, num_levels) for name in ("uncertainty", perplexity)]
        found = [(float(r[names[0]]), float(r[names[1]])) for r in records if r.keys() >= {*names}]
        if found:
            return found
    return []


def uncertainty_perplexity_correlation(
    records: Sequence[Mapping[str, Any]], level: int, num_levels: int
) -> float | None:
    """Return the Pearson correlation of uncertainty and perplexity over training (EdVAE, Fig. 3).

    Uses the evaluations on the held-out split. None if fewer than three have both, or if either
    is constant.
    """
    points = uncertainty_and_perplexity(records, level, num_levels)
    if len(points) < 3:
        return None
    found = float(torch.corrcoef(torch.tensor(points, dtype=torch.float64).T)[0, 1])
    return found if math.isfinite(found) else None


def low_perplexity_since(
    records: Sequence[Mapping[str, Any]], level: int, num_levels: int, threshold: float
) -> int | None:
    """Return the training step from which the batch perplexity stayed below `threshold`.

    records: the records of metrics.jsonl. None if the last logged value is not below
    the threshold, or there is none.
    """
    name = level_name("batch_perplexity", level, num_levels)
    steps = [(int(r["step"]), float(r[name])) for r in records if name in r]
    if not steps or steps[-1][1] >= threshold:
        return None
    last_above = max((i for i, (_, value) in enumerate(steps) if value >= threshold), default=-1)
    return steps[last_above + 1][0]


def codebook_state(
    perplexity: float, num_codes: int, positions: int
) -> Literal["healthy", "underused", "collapsed", "undetermined"]:
    """Classify a codebook by the ratio perplexity / K, with the bounds COLLAPSED and UNDERUSED.

    positions: number of code positions behind the perplexity. If there are fewer than codes, a low
    ratio may be due to them alone, and the state is undetermined.
    """
    share = perplexity / num_codes
    if share >= UNDERUSED:
        return "healthy"
    if positions < num_codes:
        return "undetermined"
    return "underused" if share >= COLLAPSED else "collapsed"


def verdict_of(health: LevelHealth, since_step: int | None = None) -> Verdict:
    """Derive the verdict: what is wrong, what may have caused it, and what to try.

    since_step: the training step returned by `low_perplexity_since`, if the run is known.
    """
    faults = _faults(health)
    if faults:
        return Verdict("broken", tuple(faults))
    positions = int(health.counts.sum())
    state = codebook_state(health.perplexity, health.num_codes, positions)
    sentences = [
        f"{health.codes_used} of {counted(health.num_codes, 'code')} {are(health.codes_used)} "
        f"used. The perplexity is {health.perplexity:.0f}, as if that many codes were used equally "
        "often."
    ]
    if state == "healthy":
        return Verdict(state, tuple(sentences))
    if state == "undetermined":
        sentences.append(
            f"{counted(positions, 'code position')} {are(positions)} too few to judge a codebook "
            f"of {counted(health.num_codes, 'code')}. Diagnose it on more images."
        )
        return Verdict(state, tuple(sentences))
    if since_step is not None:
        sentences.append(f"This has been the case since training step {since_step:,}.")
    sentences += _causes(health)
    return Verdict(state, tuple(sentences))


def _training_of(config: object) -> dict[str, Any]:
    """Return how a quantizer's config starts, resets and trains codes, as fields of LevelHealth."""
    init, reset = getattr(config, "init", None), getattr(config, "reset", None)
    return {
        "can_start_and_reset": init is not None and reset is not None,
        "starts_from_data": init in ("data", "kmeans"),
        "reset": None if reset is None or reset.kind == "none" else reset.kind,
        "has_averages": hasattr(config, "averages"),
        "has_entropy_penalty": hasattr(config, "entropy_temperature"),
    }


def _health(
    counts: Tensor,
    batch_perplexities: tuple[float, ...],
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
        perplexity_batch128=batch_perplexities[0],
        perplexity_batch32=batch_perplexities[1],
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
    """Return the maps of one level, with names without the level."""
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
            f"{counted(len(health.not_finite), 'code vector')} with NaN or infinity (row "
            f"{rows}{more}): every image that uses them is decoded to invalid values. Return to an "
            "earlier checkpoint, and lower the learning rate or set train.clip_norm."
        )
    if health.copies:
        add = "adds" if health.copies == 1 else "add"
        sentences.append(
            f"{counted(health.copies, 'exact copy')} of other codes, which {add} no information. "
            "Causes are an initialisation from too few encoder outputs (init: data or kmeans with "
            "a small first batch) or edited weights. Use a larger batch or a codebook reset."
        )
    return sentences


_SOONER = {
    "least-recently-used": "a shorter timeout",
    "random": "a higher threshold",
    "split": "fewer steps between two checks (every)",
}
"""Kind of a codebook reset -> setting with which it acts sooner."""


def _start_and_reset(health: LevelHealth) -> str:
    """Advise an initialisation and a reset where they are off, else to give the reset time."""
    advice = []
    if not health.starts_from_data:
        advice.append("initialise the codebook from encoder outputs (init: kmeans)")
    if health.reset is None:
        advice.append("reset unused codes (reset: least-recently-used)")
    if not advice:
        return (
            "The codebook already starts from encoder outputs and unused codes are reset, which "
            f"takes steps: train longer, or reset sooner ({_SOONER[health.reset or '']})"
        )
    joined = " and ".join(advice)
    return joined[0].upper() + joined[1:]


def _entropy_penalty_advice(dead: str, entropy: float, num_codes: int) -> str:
    """Advise a quantizer whose code probabilities only an entropy penalty shapes."""
    return (
        f"{dead} never the most likely one (entropy {entropy:.2f} of {math.log(num_codes):.2f} "
        "nats). The entropy penalty spreads the codes: raise the weight of diversity "
        "(objective.weights.diversity) or lower that of sample_entropy, and raise "
        "tokenizer.quantizer.entropy_temperature, so that more codes have a share of each "
        "position; null turns the penalty off."
    )


def _causes(health: LevelHealth) -> list[str]:
    dead = f"{counted(health.dead_codes, 'code')} {are(health.dead_codes)}"
    if health.entropy is None and not health.can_start_and_reset:
        return [
            f"{dead} dead. Use a smaller codebook or another quantizer; this one has neither an "
            "initialisation from data nor a reset of unused codes."
        ]
    if health.entropy is None:
        return [
            f"{dead} dead: the encoder outputs have moved away from codes that receive no "
            f"{'updates' if health.has_averages else 'gradient'}. {_start_and_reset(health)}; a "
            "smaller commitment weight lets the encoder outputs spread."
        ]
    share = health.entropy / math.log(health.num_codes)
    if health.has_entropy_penalty:
        return [_entropy_penalty_advice(dead, health.entropy, health.num_codes)]
    if share > 0.8:
        return [
            f"The code probabilities are nearly uniform (entropy {health.entropy:.2f} of "
            f"{math.log(health.num_codes):.2f} nats), so the most likely code is nearly random. "
            "Lower the weight of the KL term, lower the final temperature, or train longer."
        ]
    sentences = [
        f"{dead} never the most likely one (entropy {health.entropy:.2f} of "
        f"{math.log(health.num_codes):.2f} nats). The number of used codes is decided early in "
        "training: start with a higher temperature (objective.temperature.start: 2) and the same "
        "final one."
    ]
    if health.logits_above[1] > 0.05:
        advice = (
            "kl: torch has no gradient there; use kl: exact"
            if health.uncertainty is not None
            else "a larger weight of the KL term prevents this"
        )
        sentences.append(
            f"{health.logits_above[1]:.0%} of the largest logits are above {LOGIT_MARKS[1]:.0f}: "
            f"the encoder is nearly certain, and {advice}."
        )
    return sentences
