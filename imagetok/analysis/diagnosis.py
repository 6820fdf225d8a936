"""Diagnosis of a codebook: utilisation measures, and a verdict on collapse."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from imagetok.config import load_config
from imagetok.data import ImageDataset
from imagetok.data.inputs import ImageInput, open_inputs, warn_of_training_images
from imagetok.data.readable import advising_to_skip, readable
from imagetok.data.subset import FirstImages
from imagetok.data.unreadable import Unreadable, skipped_row
from imagetok.durable import write_json
from imagetok.errors import ConfigError
from imagetok.evaluation.batches import evaluation_batch
from imagetok.evaluation.codebook_health import (
    COLLAPSED,
    LOGIT_MARKS,
    RARE_SHARE,
    UNDERUSED,
    LevelHealth,
    Verdict,
    code_change_rates,
    codebook_health,
    codebook_state,
    low_perplexity_since,
    uncertainty_perplexity_correlation,
    verdict_of,
)
from imagetok.evaluation.earlier_measures import renamed
from imagetok.evaluation.records import identity_of
from imagetok.images import Images, from_stored, pixels_text
from imagetok.io.output_paths import output_folder
from imagetok.pictures import as_pixels, as_rgb, class_labels, grid_of_rows, heat_map
from imagetok.processes import device_of
from imagetok.progress import progress_shown
from imagetok.results import Result
from imagetok.tokenizers import Autoencoder, Tokenizer
from imagetok.tokenizers.loading import display_name, open_tokenizer
from imagetok.training.checkpoint import kept_weights
from imagetok.training.config import TokenizerRun
from imagetok.training.metrics_log import read_thinned
from imagetok.training.run_folder import CONFIG

SAMPLE = 1000
"""Number of images whose codes are compared with those of earlier checkpoints."""
SHOWN = 8


@dataclass(frozen=True, repr=False, eq=False)
class Diagnosis(Result):
    """The result of `diagnose`: codebook health and verdict of every level."""

    tokenizer: str
    """The tokenizer's path or Hub id, as passed to `diagnose`."""
    data: str
    levels: tuple[LevelHealth, ...]
    verdicts: tuple[Verdict, ...]
    identity: dict[str, Any]
    """Everything the measures depend on apart from the tokenizer: data and image count."""
    fingerprint: str
    origin: str | None
    """Folder or Hub revision that the tokenizer was loaded from."""
    history: list[dict[str, Any]]
    """Records of the run's metrics.jsonl; empty if the run folder is not available."""
    drifts: dict[int, tuple[float, ...]]
    """Step of an earlier checkpoint -> share of codes per level that have changed since then."""
    images: Images
    """The first images, at most SHOWN."""
    classes: list[str]
    """Class names of `images`; "" for no class."""
    entropies: dict[str, Tensor]
    """Checkpoint -> entropy maps of `images`, coarsest level; empty without code probabilities."""
    skipped: tuple[Unreadable, ...] = ()
    """Images that are left out, because they cannot be read."""
    pixels: str = ""
    """Size and mode of the images as they were encoded, such as "32 x 32 rgb"."""

    @property
    def measures(self) -> list[dict[str, Any]]:
        """One object per level, as in diagnosis.json: measures, counts and verdict."""
        return [
            asdict(health)
            | {"counts": health.counts.tolist(), "dead_codes": health.dead_codes}
            | {"codes_changed_since": {step: d[level] for step, d in self.drifts.items()}}
            | {"uncertainty_with_perplexity": self.correlation(level)}
            | asdict(verdict)
            for level, (health, verdict) in enumerate(zip(self.levels, self.verdicts, strict=True))
        ]

    @property
    def record(self) -> dict[str, Any]:
        """Content of diagnosis.json: the measures, the tokenizer and the data."""
        return {
            "tokenizer": self.fingerprint,
            "origin": self.origin,
            "data": self.data,
            "identity": self.identity,
            **({"skipped": [asdict(image) for image in self.skipped]} if self.skipped else {}),
            "levels": self.measures,
        }

    def correlation(self, level: int) -> float | None:
        """Return the correlation of uncertainty and perplexity during training; None if unknown."""
        return uncertainty_perplexity_correlation(self.history, level, len(self.levels))

    def title(self) -> str:
        """Return a title: the tokenizer and the data."""
        return f"{self.tokenizer} on {self.data}"

    def title_of(self, level: int) -> str:
        """Return the title, with the level if there are several."""
        return self.title() + (f", level {level}" if len(self.levels) > 1 else "")

    def rows(self) -> dict[str, object]:
        """Return verdict and measures by name; names include the level if there are several."""
        rows: dict[str, object] = {}
        for level, verdict in enumerate(self.verdicts):
            ending = f", level {level}" if len(self.levels) > 1 else ""
            found = {"verdict": verdict.state, **self.rows_of(level)}
            rows |= {f"{name}{ending}": value for name, value in found.items()}
        return rows

    def rows_of(self, level: int) -> dict[str, object]:
        """Return the measures of one level as label -> formatted value."""
        health = self.levels[level]
        rows: dict[str, object] = {
            **({"images": self.pixels} if self.pixels else {}),
            **skipped_row(self.skipped),
            "codes used": f"{health.codes_used} of {health.num_codes}",
            "dead codes": health.dead_codes,
            f"rarely used codes (below {RARE_SHARE:.0%} of equal use)": health.rare_codes,
            "perplexity, whole dataset": health.perplexity,
            "perplexity, mean over whole batches of 128": health.perplexity_batch128,
            "perplexity, mean over batches of 32": health.perplexity_batch32,
            "share of the most used code": health.top_share,
        }
        for what, norms in (
            ("code vectors", health.norms),
            ("encoder outputs", health.encoder_norms),
        ):
            if norms is not None:
                least_to_largest = " / ".join(f"{norm:.3g}" for norm in norms)
                rows[f"norms of {what}: min / median / max"] = least_to_largest
        if health.entropy is not None:
            rows["entropy of code probabilities, nats"] = (
                f"{health.entropy:.3f} ± {health.entropy_std:.3f}"
            )
        if health.uncertainty is not None:
            rows["mean uncertainty K / S"] = health.uncertainty
        if health.variance is not None:
            rows["variance of the quantizer"] = health.variance
        for mark, share in zip(LOGIT_MARKS, health.logits_above, strict=False):
            rows[f"positions with largest logit above {mark:.0f}"] = f"{share:.1%}"
        for step, shares in self.drifts.items():
            rows[f"codes changed since step {step:,}"] = f"{shares[level]:.1%}"
        correlation = self.correlation(level)
        if correlation is not None:
            rows["correlation of uncertainty and perplexity during training"] = correlation
        return rows

    def pictures(self) -> dict[str, np.ndarray]:
        """Return images above their entropy maps, if the quantizer has code probabilities."""
        if not self.entropies:
            return {}
        rows, caption = entropy_maps(self.images, self.entropies)
        return {caption: grid_of_rows(rows)}


@advising_to_skip()
def diagnose(
    tokenizer: Autoencoder | Path | str,
    data: ImageInput,
    *,
    out: Path | str | None = None,
    max_skip: int | str = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Diagnosis:
    """Measure codebook utilisation, detect collapse, and suggest remedies.

    tokenizer: a Tokenizer, its folder, or a Hub id. If the folder is inside its run folder, the
    training log is read too, and the verdict names the step since which it holds.
    data: the images to encode: a spec such as `digits:test`, a path, or any other image input
    (see `open_inputs`).
    out: a folder for diagnosis.json and report.html. progress: show a progress bar on stderr.
    max_skip: unreadable images to leave out, a count or a percentage such as "1%".

    Raises ArtifactError if `tokenizer` is no tokenizer, InputError if more images than max_skip
    cannot be read, ConfigError if `out` is a file.

    Example: `imagetok.diagnose("runs/a/tokenizer", "digits:test").verdicts[0].state`
    """
    folder = output_folder(out)
    model = open_tokenizer(tokenizer, device)
    dataset, source = open_inputs(data, model.image)
    with progress_shown(progress):
        warn_of_training_images(data, source)
        dataset = readable(dataset, max_skip)
        found = _measure(model, dataset, display_name(tokenizer), source)
    if folder is not None:
        from imagetok.analysis.diagnosis_page import write_page

        write_json(folder / "diagnosis.json", found.record)
        write_page(folder / "report.html", f"Codebook of {found.tokenizer}", found)
    return found


def _measure(tokenizer: Tokenizer, dataset: ImageDataset, name: str, source: str) -> Diagnosis:
    """Measure the health of every level and derive the verdicts."""
    levels = codebook_health(tokenizer, dataset)
    run = _run_of(tokenizer, name)
    log = [] if run is None else read_thinned(run / "metrics.jsonl")
    history = [renamed(record) for record in log]
    before = _earlier(tokenizer, run) if run is not None else {}
    sample = FirstImages(dataset, SAMPLE)
    few = range(min(SHOWN, len(dataset)))
    first = dataset.read(few)
    images = from_stored(first.images.to(device_of(tokenizer)), tokenizer.image)
    return Diagnosis(
        tokenizer=name,
        data=source,
        levels=levels,
        verdicts=tuple(_verdict(levels, level, history) for level in range(len(levels))),
        identity=identity_of("codebook", dataset, len(dataset), ()),
        fingerprint=tokenizer.fingerprint,
        origin=tokenizer.origin,
        history=history,
        drifts={
            step: code_change_rates(model, tokenizer, sample) for step, model in before.items()
        },
        images=images.cpu(),
        classes=class_labels(first.labels.tolist(), dataset.class_names),
        entropies=_entropies(before, tokenizer, images),
        skipped=dataset.skipped,
        pixels=pixels_text(dataset.contract),
    )


def _verdict(
    levels: Sequence[LevelHealth], level: int, history: Sequence[Mapping[str, Any]]
) -> Verdict:
    """Return the verdict on one level, with the step since which it holds, if it is known."""
    health = levels[level]
    state = codebook_state(health.perplexity, health.num_codes, int(health.counts.sum()))
    share = COLLAPSED if state == "collapsed" else UNDERUSED
    return verdict_of(
        health, low_perplexity_since(history, level, len(levels), share * health.num_codes)
    )


def _entropies(
    before: Mapping[int, Tokenizer], now: Tokenizer, images: Images
) -> dict[str, Tensor]:
    """Return entropy maps (B, h, w) of the coarsest level for every checkpoint that has them."""
    models = {f"step {step:,}": model for step, model in before.items()} | {"now": now}
    found = {}
    for name, model in models.items():
        parts = [
            model.encode_with_certainty(part)[1]
            for part in images.split(evaluation_batch(model.image))
        ]
        entropy = next((n for n in ("entropy", "entropy_level0") if n in parts[0]), None)
        if entropy is not None:
            found[name] = torch.cat([maps[entropy] for maps in parts]).cpu()
    return found


def _run_of(tokenizer: Tokenizer, source: str) -> Path | None:
    """Return the run folder that contains `source` if it trained this tokenizer, else None."""
    run = Path(source).absolute().parent
    if not Path(source).is_dir() or not (run / "metrics.jsonl").is_file():
        return None
    try:
        config = load_config(run / CONFIG, TokenizerRun)
    except ConfigError:  # the config of a prior, or no config
        return None
    return run if config.tokenizer == tokenizer.config else None


def _earlier(tokenizer: Tokenizer, run: Path) -> dict[int, Tokenizer]:
    """Return the tokenizer at every kept checkpoint of the run except the last, by step."""
    found = {}
    kept = kept_weights(run / "checkpoints")
    for step in sorted(kept)[:-1]:
        found[step] = copy.deepcopy(tokenizer)
        found[step].load_state_dict(kept[step])
    return found


def entropy_maps(
    images: Images, entropies: Mapping[str, Tensor]
) -> tuple[dict[str, np.ndarray], str]:
    """Render images and their entropy maps, all maps on one scale (EdVAE, Fig. 2b).

    images: (N, C, H, W). entropies: name -> (N, h, w) in nats.
    Returns rows of pictures (N, 3, H, W) by label, and a caption.
    """
    shown = as_rgb(images)
    most = max(float(maps.max()) for maps in entropies.values())
    rows = {"image": as_pixels(shown.expand(-1, 3, -1, -1))}
    for name, maps in entropies.items():
        grown = interpolate(maps[:, None] / max(most, 1e-9), size=shown.shape[-2:])[:, 0]
        rows[name] = heat_map(grown)
    caption = f"Entropy of the code probabilities: black is 0, pale yellow is {most:.2f} nats."
    return rows, caption
