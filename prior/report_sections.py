"""Report sections of a prior: samples and completions."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from imagetok.codes.decode import decode_in_batches
from imagetok.codes.shard import CodeBatch
from imagetok.errors import ConfigError, ImagetokError
from imagetok.pictures import as_pixels, as_rgb, class_labels
from imagetok.processes import device_of
from imagetok.reporting import Block, Pictures, ReportSection, Text
from imagetok.suggestions import counted
from imagetok.tokenizers import Tokenizer
from prior.base import Prior
from prior.completion import with_kept
from prior.config import PriorRun
from prior.loading import open_pair
from prior.report_folders import PriorRunFolder, SampleFolder
from prior.sample_folder import read_drawn
from prior.stepper import NO_LABEL
from prior.training import open_data

CLASSES = 20
"""Largest number of classes shown."""
COMPLETED, COMPLETIONS = 5, 6
_SEED = 0
_COLUMNS = 10


def prior_sections(
    run: PriorRunFolder, folders: Sequence[SampleFolder], num_samples: int, name: str
) -> list[ReportSection]:
    """Build the sections on samples of every class and on completions of held-out images.

    folders: existing samples of this prior, shown instead of new ones. num_samples: samples per
    class; a prior without classes draws 4 * num_samples. With 0 and no folders there are no
    sections.
    """
    if run.artifact is None:
        summary = f"Training has not finished; the last logged step is {run.step:,}."
        return [ReportSection(f"Samples{name}", [Text(summary)])]
    if num_samples == 0 and not folders:
        return []
    prior, tokenizer = open_pair(run.artifact, None, run.device)
    sections = [samples_section(folder, name, prior.config.class_names) for folder in folders]
    if not folders:
        sections.append(ReportSection(f"Samples{name}", _drawn(prior, tokenizer, num_samples)))
    done = _completed(run.config, prior, tokenizer)
    return [*sections, ReportSection(f"Completions{name}", done)]


def samples_section(
    folder: SampleFolder, name: str, class_names: Sequence[str] = ()
) -> ReportSection:
    """Build the section on a folder of samples: its first images, one row per class.

    class_names: those of the prior, if it is available.
    """
    record = folder.record
    period = len(record.labels)
    drawn = sorted(set(record.labels[: record.num_images]))  # there may be fewer images than labels
    by_class = {
        label: [j for j in range(record.num_images) if record.labels[j % period] == label]
        for label in drawn[:CLASSES]
    }
    settings = record.params().model_dump()
    summary = ", ".join(
        f"{name.replace('_', '-')} {value}"
        for name, value in settings.items()
        if value is not None and value is not False
    )
    blocks: list[Block] = [
        Text(
            f"{counted(record.num_images, 'sample')} of the prior with fingerprint "
            f"{record.prior[:16]} ({summary})."
        )
    ]
    labels = [name or "none" for name in class_labels(by_class, class_names)]
    if len(by_class) == 1:
        caption = "" if -1 in by_class else f"Class: {labels[0]}."
        images = read_drawn(folder.path, range(min(record.num_images, 40)))
        blocks.append(Pictures(images, _COLUMNS, caption=caption))
    else:
        count = min(_COLUMNS, *map(len, by_class.values()))
        chosen = [j for places in by_class.values() for j in places[:count]]
        blocks.append(Pictures(read_drawn(folder.path, chosen), count, labels))
    return ReportSection(f"Samples{name}", blocks)


def _drawn(prior: Prior, tokenizer: Tokenizer, num_samples: int) -> list[Block]:
    classes = list(range(min(prior.config.num_classes, CLASSES)))
    columns = min(_COLUMNS, num_samples if classes else 4 * num_samples)
    count = num_samples * len(classes) if classes else 4 * num_samples
    names = prior.config.named_classes[: len(classes)]
    codes = prior.sample(count, label=names or NO_LABEL, seed=_SEED)
    images = as_rgb(decode_in_batches(tokenizer, codes))
    if not classes:
        summary = (
            f"Grids of codes sampled from the prior (seed {_SEED}) and decoded by the tokenizer."
        )
        return [Text(summary), Pictures(images, columns)]
    by_class = images.view(num_samples, len(classes), *images.shape[1:]).transpose(0, 1)
    shown = by_class[:, :columns].flatten(0, 1)
    summary = (
        f"Grids of codes sampled from the prior (seed {_SEED}) and decoded by the tokenizer, one "
        "row per class."
    )
    return [Text(summary), Pictures(shown, columns, list(names))]


def _completed(config: PriorRun, prior: Prior, tokenizer: Tokenizer) -> list[Block]:
    """Build rows of a reconstruction from held-out codes, its upper half, and completions."""
    try:
        _, held_out = open_data(config, tokenizer.codes_fingerprint)
    except ImagetokError as error:
        return [Text(f"The held-out codes cannot be opened here: {error}")]
    count = min(COMPLETED, len(held_out))
    batch = held_out.__getitems__([i * len(held_out) // count for i in range(count)])
    return completed_blocks(prior, tokenizer, batch)


def completed_blocks(prior: Prior, tokenizer: Tokenizer, batch: CodeBatch) -> list[Block]:
    """Complete each image of a batch; if that is impossible, return the reason as text."""
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
        return [Text(f"Images cannot be completed: {error}")]
    summary = (
        f"Reconstructions of held-out images, the part that is kept ({keep_rows} of "
        f"{counted(config.grids[0][0], 'row')} of codes), and completions sampled from the prior "
        + ("without a class." if knows_none else "with the class of each image.")
    )
    headers = ["image", "kept", *(f"draw {i}" for i in range(1, COMPLETIONS + 1))]
    names = class_labels(batch.labels.tolist(), config.class_names)
    shown = Pictures(np.concatenate(rows), COMPLETIONS + 2, names, headers)
    return [Text(summary), shown]


def _completions(
    prior: Prior, tokenizer: Tokenizer, codes: Sequence[Tensor], keep_rows: int, label: int
) -> np.ndarray:
    device = device_of(tokenizer)
    given = tuple(level.to(device) for level in codes)
    name = NO_LABEL if label == NO_LABEL else prior.config.named_classes[label]
    drawn = prior.sample(COMPLETIONS, given=given, keep_rows=keep_rows, label=name, seed=_SEED)
    both = tuple(torch.cat(levels) for levels in zip(given, drawn, strict=True))
    pixels = as_pixels(as_rgb(decode_in_batches(tokenizer, both)))
    return with_kept(pixels, keep_rows / min(h for h, _ in prior.config.grids))
