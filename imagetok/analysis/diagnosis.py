"""A tokenizer's codebook diagnosed: measures, a verdict in words, and a page."""

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate

from imagetok.codes.encode import FirstImages
from imagetok.config import load_config
from imagetok.data import ImageDataset
from imagetok.errors import ConfigError
from imagetok.evaluation.diagnosis import (
    COLLAPSED,
    LOGIT_MARKS,
    UNDERUSED,
    LevelHealth,
    Verdict,
    began,
    drift,
    evaluations,
    examine,
    judge,
    state_of,
    together,
)
from imagetok.images import Images, from_stored
from imagetok.processes import device_of
from imagetok.quantizers import level_name
from imagetok.tokenizers import Tokenizer
from imagetok.training.checkpoint import kept_weights
from imagetok.training.config import TokenizerRun
from imagetok.training.metrics import read_json_lines
from imagetok.training.run import CONFIG

SAMPLE = 1000
"""Images whose codes are compared with those of earlier checkpoints."""
SHOWN = 8


class Diagnosis(NamedTuple):
    """What `diagnose` found, per level."""

    levels: tuple[LevelHealth, ...]
    verdicts: tuple[Verdict, ...]
    records: list[dict[str, Any]]
    """What training logged, if the run is at hand."""
    drifts: dict[int, tuple[float, ...]]
    """By step of an earlier checkpoint: the share of codes, per level, chosen anew since then."""
    images: Images
    """A few, at most SHOWN."""
    entropies: dict[str, Tensor]
    """Entropy maps of these images by checkpoint, of the coarsest level; empty without any."""


def diagnose(tokenizer: Tokenizer, dataset: ImageDataset, source: str) -> Diagnosis:
    """Every level's health and verdict.

    source: where the tokenizer came from. In the run folder that made it, it has a history, which
    tells since when; elsewhere, as on the Hub, it has none.
    """
    levels = examine(tokenizer, dataset)
    run = _run_of(tokenizer, source)
    records = read_json_lines(run / "metrics.jsonl") if run is not None else []
    verdicts = []
    for level, health in enumerate(levels):
        state = state_of(health.perplexity, health.num_codes)
        share = COLLAPSED if state == "collapsed" else UNDERUSED
        since = began(records, level, len(levels), share * health.num_codes)
        verdicts.append(judge(health, since))
    before = _earlier(tokenizer, run) if run is not None else {}
    sample = FirstImages(dataset, SAMPLE)
    drifts = {step: drift(model, tokenizer, sample) for step, model in before.items()}
    few = range(min(SHOWN, len(dataset)))
    device = device_of(tokenizer)
    images = from_stored(dataset.read(few).images.to(device), tokenizer.image)
    models = {f"step {step:,}": model for step, model in before.items()} | {"now": tokenizer}
    entropies = {}
    for name, model in models.items():
        maps = model.encode_with_certainty(images)[1]
        found = maps.get("entropy", maps.get("entropy_level0"))
        if found is not None:
            entropies[name] = found.cpu()
    return Diagnosis(levels, tuple(verdicts), records, drifts, images.cpu(), entropies)


def _run_of(tokenizer: Tokenizer, source: str) -> Path | None:
    """The run folder that made a tokenizer, if `source` lies in it."""
    run = Path(source).absolute().parent
    if not Path(source).is_dir() or not (run / "metrics.jsonl").is_file():
        return None
    try:
        config = load_config(run / CONFIG, TokenizerRun)
    except ConfigError:  # that of a prior, or none
        return None
    return run if config.tokenizer == tokenizer.config else None


def _earlier(tokenizer: Tokenizer, run: Path) -> dict[int, Tokenizer]:
    """The tokenizer as it was at the kept checkpoints of the run, but the last."""
    found = {}
    kept = kept_weights(run / "checkpoints")
    for step in sorted(kept)[:-1]:
        found[step] = copy.deepcopy(tokenizer)
        found[step].load_state_dict(kept[step])
    return found


def as_json(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    """One object a level: measures, counts, verdict."""
    return [
        asdict(health)
        | {"counts": health.counts.tolist(), "dead_codes": health.dead_codes}
        | {"codes_changed_since": {step: d[level] for step, d in diagnosis.drifts.items()}}
        | {"uncertainty_with_perplexity": _together(diagnosis, level)}
        | asdict(verdict)
        for level, (health, verdict) in enumerate(
            zip(diagnosis.levels, diagnosis.verdicts, strict=True)
        )
    ]


def told(diagnosis: Diagnosis, level: int) -> dict[str, object]:
    """Names and values for people, of one level."""
    health = diagnosis.levels[level]
    rows: dict[str, object] = {
        "codes used": f"{health.codes_used} of {health.num_codes}",
        "dead codes": health.dead_codes,
        "nearly dead codes": health.rare_codes,
        "perplexity, all codes": health.perplexity,
        "perplexity, batches of 128": health.perplexity_batch128,
        "share of the most used": health.top_share,
    }
    for what, norms in (("codes", health.norms), ("encoder", health.encoder_norms)):
        if norms is not None:
            rows[f"norms of {what}, least to largest"] = " / ".join(f"{n:.3g}" for n in norms)
    if health.entropy is not None:
        rows["entropy, nats"] = f"{health.entropy:.3f} +- {health.entropy_std:.3f}"
    if health.uncertainty is not None:
        rows["uncertainty K / S"] = health.uncertainty
    if health.variance is not None:
        rows["variance of the quantizer"] = health.variance
    for mark, share in zip(LOGIT_MARKS, health.logits_above, strict=False):
        rows[f"largest logit above {mark:.0f}"] = f"{share:.1%}"
    for step, shares in diagnosis.drifts.items():
        rows[f"codes chosen anew since step {step:,}"] = f"{shares[level]:.1%}"
    correlation = _together(diagnosis, level)
    if correlation is not None:
        rows["correlation of uncertainty and perplexity in training"] = correlation
    return rows


def _together(diagnosis: Diagnosis, level: int) -> float | None:
    return together(diagnosis.records, level, len(diagnosis.levels))


def write_page(path: Path, title: str, diagnosis: Diagnosis) -> None:
    """The diagnosis as one self-contained HTML file: verdict, measures, code usage, curves."""
    from imagetok.analysis.curves import codebook_figures
    from imagetok.reporting import (
        Block,
        Figure,
        Section,
        Table,
        Text,
        usage_histogram,
        write_report,
    )

    sections = []
    for level, health in enumerate(diagnosis.levels):
        verdict = diagnosis.verdicts[level]
        blocks: list[Block] = [Text(sentence) for sentence in verdict.sentences]
        blocks.append(Table(("measure", "value"), list(told(diagnosis, level).items())))
        figure = usage_histogram(health.counts)
        blocks.append(Figure(figure, "uses of each code", "How often each code is used."))
        name = level_name("Codebook", level, len(diagnosis.levels)).replace("_level", ", level ")
        sections.append(Section(f"{name}: {verdict.state}", blocks))
    if diagnosis.entropies:
        sections.append(Section("Where it is sure", [_entropy_maps(diagnosis)]))
    figures = codebook_figures(diagnosis.records)
    figures += _uncertainty_figures(diagnosis)
    if figures:
        sections.append(Section("Over training", figures))
    write_report(path, title, sections)


def _uncertainty_figures(diagnosis: Diagnosis) -> list[Any]:
    """Uncertainty against perplexity over the evaluations of training (EdVAE, Fig. 3)."""
    from imagetok.reporting import Figure, curves

    figures = []
    for level in range(len(diagnosis.levels)):
        points = evaluations(diagnosis.records, level, len(diagnosis.levels))
        if len(points) < 2:
            continue
        uncertainty, perplexity = zip(*points, strict=True)
        named = level_name("perplexity of batches of 128", level, len(diagnosis.levels))
        drawn = curves({"": (perplexity, uncertainty)}, named, "uncertainty K / S")
        correlation = _together(diagnosis, level)
        told = "" if correlation is None else f" Pearson's correlation: {correlation:.2f}."
        caption = f"One point an evaluation, from the first of the training to the last.{told}"
        figures.append(Figure(drawn, "uncertainty against perplexity", caption))
    return figures


def _entropy_maps(diagnosis: Diagnosis) -> Any:
    """Images over their entropy maps, all maps on one scale (EdVAE, Fig. 2b)."""
    from imagetok.pictures import as_pixels, coloured, heat
    from imagetok.reporting import Pictures

    images = coloured(diagnosis.images)
    most = max(float(maps.max()) for maps in diagnosis.entropies.values())
    rows = {"image": as_pixels(images.expand(-1, 3, -1, -1))}
    for name, maps in diagnosis.entropies.items():
        grown = interpolate(maps[:, None] / max(most, 1e-9), size=images.shape[-2:])[:, 0]
        rows[name] = heat(grown)
    return Pictures(
        np.concatenate(list(rows.values())),
        len(images),
        row_labels=list(rows),
        caption=f"Entropy of the code probabilities, black 0, palest {most:.2f} nats.",
    )
