"""Reports of priors and folders of samples beside those of tokenizers. No click here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from imagetok.analysis.curves import TEST, TRAIN, Curve
from imagetok.analysis.report import make_report, sections_of
from imagetok.analysis.runs import (
    RunFolder,
    Sources,
    TokenizerRunFolder,
    names_of,
    open_sources,
)
from imagetok.artifacts import read_artifact
from imagetok.codes.decode import decode_in_batches
from imagetok.codes.plan import read_json
from imagetok.codes.shard import CodeBatch
from imagetok.config import Section as ConfigSection
from imagetok.errors import ConfigError, ImagetokError, InputError, ShardError
from imagetok.pictures import as_pixels, coloured
from imagetok.processes import device_of
from imagetok.reporting import Block, Pictures, Section, Text
from imagetok.tokenizers import Tokenizer
from prior import Prior
from prior.base import NO_LABEL
from prior.completion import with_kept
from prior.config import PriorRun
from prior.generation import RECORD as SAMPLES
from prior.generation import Samples, load_pair, read_drawn
from prior.training import open_data

CLASSES = 20
"""Shown at most."""
COMPLETED, COMPLETIONS = 5, 6
_SEED = 0
_COLUMNS = 10


BITS_CURVE = Curve(
    "bits per code",
    {
        ("train", "bits_per_code"): TRAIN,
        ("test", "bits_per_code"): TEST,
        ("test", "order0_bits_per_code"): "order-0 entropy",
    },
    "Of the prior. Below the order-0 entropy it has learned how codes depend on each other.",
)


@dataclass(frozen=True)
class PriorRunFolder(RunFolder):
    """A run that trains a prior."""

    config: PriorRun

    kind: ClassVar[str] = "prior"
    section: ClassVar[type[ConfigSection]] = PriorRun
    headlines: ClassVar[Mapping[str, tuple[str, str]]] = {
        "bits_per_code": ("bits per code", "of held-out codes, under the prior"),
    }
    curves: ClassVar[Sequence[Curve]] = (BITS_CURVE,)

    @property
    def method(self) -> str:
        """The kind of its model."""
        return f"{self.config.model.kind} prior"

    @property
    def loss_terms(self) -> Sequence[str]:
        """None: its loss is one."""
        return ()

    def described(self) -> dict[str, str | None]:
        """Model and data."""
        return {"method": self.config.model.kind, "data": self.config.data.source}

    def measured_on(self) -> dict[str, object]:
        """The held-out codes and, once it is finished, the tokenizer that they are of."""
        data = self.config.data
        identity: dict[str, object] = {"data": data.test or f"a part of {data.source}"}
        if self.artifact:
            # Bits of one tokenizer's codes say nothing about those of another's.
            prior = read_artifact(self.artifact, "prior")
            identity["tokenizer"] = prior.architecture["tokenizer_fingerprint"]
        return identity


class SampleFolder(NamedTuple):
    """What `imagetok sample` wrote."""

    path: Path
    name: str
    record: Samples


class PriorSources(NamedTuple):
    """Everything that a report is to show, in the order given."""

    sources: Sources
    samples: list[SampleFolder]


def open_all(paths: Sequence[Path], device: torch.device) -> PriorSources:
    """Read run folders, folders of samples and files of measures.

    Raises InputError for what is none of these, or damaged.
    """
    named = names_of(paths)
    samples = {name: path for name, path in named.items() if (path / SAMPLES).is_file()}
    others = {name: path for name, path in named.items() if name not in samples}
    kinds = (TokenizerRunFolder, PriorRunFolder)
    told = f"a folder of samples (with {SAMPLES}), "
    folders = [SampleFolder(path, name, _read_samples(path)) for name, path in samples.items()]
    return PriorSources(open_sources(others, device, kinds, told), folders)


def report_all(
    paths: Sequence[Path], out: Path, *, num_samples: int, device: torch.device
) -> list[str]:
    """Write the report of runs, folders of samples and files of measures; returns its contents.

    num_samples: drawn of each class from every prior. Raises InputError for a path that is none of
    these, before anything is computed.
    """
    opened = open_all(paths, device)
    names = [folder.name for folder in opened.samples]
    first = first_sections(opened, num_samples)
    return make_report(paths, out, opened.sources, first, names)


def sections_of_all(opened: PriorSources, num_samples: int) -> list[Section]:
    """Everything but the headlines and commands of a report, in its order."""
    return sections_of(opened.sources, first_sections(opened, num_samples))


def first_sections(opened: PriorSources, num_samples: int) -> list[Section]:
    """What the priors draw and complete, then other folders of samples."""
    priors = [run for run in opened.sources.runs if isinstance(run, PriorRunFolder)]
    sections = []
    shown: list[SampleFolder] = []
    for run in priors:
        drawn = [folder for folder in opened.samples if folder.record.prior == run.fingerprint]
        shown += drawn
        name = f" of {run.name}" if len(priors) > 1 else ""
        sections += prior_sections(run, drawn, num_samples, name)
    others = [folder for folder in opened.samples if folder not in shown]
    return sections + [samples_section(folder, f", {folder.name}") for folder in others]


def _read_samples(path: Path) -> Samples:
    try:
        return read_json(path / SAMPLES, Samples)
    except ShardError as error:
        raise InputError(
            f"{error}; leave {path} out of the report, or draw it again with `imagetok sample`"
        ) from None


def prior_sections(
    run: PriorRunFolder, folders: Sequence[SampleFolder], num_samples: int, name: str
) -> list[Section]:
    """New images of every class, and held-out ones completed from their upper half.

    folders: what was drawn from it already, shown in the place of new draws. num_samples: of each
    class, or four times as many without classes; at 0, and without folders, there is neither.
    """
    if run.artifact is None:
        told = f"The run has not finished; it stands at step {run.step:,}."
        return [Section(f"New images{name}", [Text(told)])]
    if num_samples == 0 and not folders:
        return []
    prior, tokenizer = load_pair(run.artifact, None, run.device)
    sections = [samples_section(folder, name, prior.config.class_names) for folder in folders]
    if not folders:
        sections.append(Section(f"New images{name}", _drawn(prior, tokenizer, num_samples)))
    done = _completed(run.config, prior, tokenizer)
    return [*sections, Section(f"Completed images{name}", done)]


def samples_section(folder: SampleFolder, name: str, class_names: Sequence[str] = ()) -> Section:
    """The first images of a folder of samples, a row a class.

    class_names: of the prior that drew them, if it is at hand.
    """
    record = folder.record
    period = len(record.labels)
    drawn = sorted(set(record.labels[: record.num_images]))  # fewer than labels: not every one
    by_class = {
        label: [j for j in range(record.num_images) if record.labels[j % period] == label]
        for label in drawn[:CLASSES]
    }
    settings = record.model_dump(exclude={"origin", "labels", "num_images", "prior", "tokenizer"})
    told = ", ".join(
        f"{name.replace('_', '-')} {value}"
        for name, value in settings.items()
        if value is not None and value is not False
    )
    blocks: list[Block] = [
        Text(f"{record.num_images:,} images drawn by the prior {record.prior[:16]} ({told}).")
    ]
    if len(by_class) == 1:
        blocks.append(Pictures(read_drawn(folder.path, range(min(record.num_images, 40))), 10))
    else:
        count = min(_COLUMNS, *map(len, by_class.values()))
        chosen = [j for places in by_class.values() for j in places[:count]]
        named = dict(enumerate(class_names)) | {-1: "none"}
        labels = [named.get(label, str(label)) for label in by_class]
        blocks.append(Pictures(read_drawn(folder.path, chosen), count, labels))
    return Section(f"New images{name}", blocks)


def _drawn(prior: Prior, tokenizer: Tokenizer, num_samples: int) -> list[Block]:
    classes = list(range(min(prior.config.num_classes, CLASSES)))
    columns = min(_COLUMNS, num_samples if classes else 4 * num_samples)
    count = num_samples * len(classes) if classes else 4 * num_samples
    codes = prior.sample(count, label=classes or "none", seed=_SEED)
    images = coloured(decode_in_batches(tokenizer, codes))
    if not classes:
        told = f"Drawn as grids of codes (seed {_SEED}), and turned into images by the tokenizer."
        return [Text(told), Pictures(images, columns)]
    by_class = images.view(num_samples, len(classes), *images.shape[1:]).transpose(0, 1)
    names = prior.config.class_names or tuple(map(str, classes))
    shown = by_class[:, :columns].flatten(0, 1)
    told = (
        f"Drawn as grids of codes, one row a class (seed {_SEED}), and turned into images by the "
        "tokenizer."
    )
    return [Text(told), Pictures(shown, columns, [names[i] for i in classes])]


def _completed(config: PriorRun, prior: Prior, tokenizer: Tokenizer) -> list[Block]:
    """Rows of: what held-out codes give back, their upper half, completions of it."""
    try:
        _, held_out = open_data(config, tokenizer.fingerprint)
    except ImagetokError as error:
        return [Text(f"The held-out codes cannot be opened here: {error}")]
    count = min(COMPLETED, len(held_out))
    batch = held_out.__getitems__([i * len(held_out) // count for i in range(count)])
    return completed_blocks(prior, tokenizer, batch)


def completed_blocks(prior: Prior, tokenizer: Tokenizer, batch: CodeBatch) -> list[Block]:
    """Completions of each image of a batch, or why there can be none."""
    config = prior.config
    knows_none = config.num_classes == 0 or config.label_dropout > 0
    labels = [NO_LABEL] * len(batch.labels) if knows_none else batch.labels.tolist()
    keep_rows = max(1, min(h for h, _ in config.grids) // 2)
    try:
        rows = [
            _completions(
                prior, tokenizer, [level[i : i + 1] for level in batch.codes], keep_rows, j
            )
            for i, j in enumerate(labels)
        ]
    except ConfigError as error:
        return [Text(f"Nothing can be completed here: {error}")]
    told = (
        f"Held-out images as their codes give them back, what is kept of them ({keep_rows} of "
        f"{config.grids[0][0]} rows of codes), and what the prior makes of that, "
        + ("without being told a class." if knows_none else "told the class of each.")
    )
    headers = ["image", "kept", "drawn", *[""] * (COMPLETIONS - 1)]
    return [Text(told), Pictures(np.concatenate(rows), COMPLETIONS + 2, (), headers)]


def _completions(
    prior: Prior, tokenizer: Tokenizer, codes: Sequence[Tensor], keep_rows: int, label: int
) -> np.ndarray:
    device = device_of(tokenizer)
    given = tuple(level.to(device) for level in codes)
    drawn = prior.sample(COMPLETIONS, given=given, keep_rows=keep_rows, label=label, seed=_SEED)
    both = tuple(torch.cat(levels) for levels in zip(given, drawn, strict=True))
    pixels = as_pixels(coloured(decode_in_batches(tokenizer, both)))
    return with_kept(pixels, keep_rows / min(h for h, _ in prior.config.grids))
