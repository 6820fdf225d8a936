"""`prior.evaluate`: bits per code of a finished prior on a code dataset."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from imagetok.codes.fingerprint import check_same_grids
from imagetok.codes.reader import CodeDataset, open_codes
from imagetok.data.class_names import ClassMatch
from imagetok.distributed.peers import check_peers, shared_work
from imagetok.durable import write_json
from imagetok.errors import ShardError
from imagetok.eval_mode import eval_mode
from imagetok.evaluation.evaluate import Evaluation, read_records
from imagetok.evaluation.records import MeasureRecord, check_comparable
from imagetok.io.output_paths import output_file
from imagetok.processes import process_state
from imagetok.progress import progress_shown
from prior.base import Prior
from prior.code_views import first_views
from prior.loading import open_prior
from prior.training import CodeSubset, code_measures, evaluate_bits, matched_labels


def evaluate(
    prior: Prior | Path | str,
    codes: CodeDataset | Path | str,
    *,
    beside: Path | str | Sequence[Path | str] | Mapping[str, MeasureRecord] = (),
    out: Path | str | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Evaluation:
    """Measure the bits per code of a prior on a code dataset, given the labels of its images.

    prior: a Prior, its folder, or a Hub id. codes: a code dataset of the prior's tokenizer, or its
    folder; of several views of each image, view 0 is measured. beside, out: as for
    `imagetok.evaluate`; records of the same codes are comparable.

    In a distributed run every process has to call this; each gets the result, one writes it.

    Raises ShardError for codes of another tokenizer, with other classes, or without images;
    ConfigError if a record in `beside` was measured differently.

    >>> prior.evaluate("runs/digits-gpt/prior", "codes/test").measures["bits_per_code"]
    """
    file, records = output_file(out), read_records(beside)
    model = open_prior(prior, device)
    model.check_finite()
    dataset = codes if isinstance(codes, CodeDataset) else open_codes(codes)
    classes = _matched(model, dataset)
    identity = _identity(dataset)
    check_comparable(identity, records)
    with progress_shown(progress), shared_work(identity, lambda: {"prior": model.fingerprint}):
        images = first_views(range(dataset.num_images), dataset.views)
        subset = CodeSubset(dataset, images, classes)
        with eval_mode(model):
            bits = evaluate_bits(model, subset, check_peers)
    record = MeasureRecord(
        subject={
            "prior": model.fingerprint,
            "origin": model.origin,
            "model": model.config.model.kind,
            "data": dataset.plan.source,
        },
        identity=identity,
        measures={
            "num_images": dataset.num_images,
            **code_measures({"bits_per_code": bits}, dataset),
        },
    )
    if file is not None and process_state().is_main_process:
        write_json(file, record)
    name = str(prior) if isinstance(prior, Path | str) else model.origin or "prior"
    return Evaluation(name, dataset.plan.source, record, records)


def _matched(model: Prior, dataset: CodeDataset) -> ClassMatch | None:
    """Match the classes of the dataset with the prior's; None if the prior has none.

    Raises ShardError unless the dataset has codes and classes of this prior.
    """
    model.check_tokenizer(dataset.fingerprint, dataset.place)
    check_same_grids(dataset.place, dataset.grids, model.config.grids, "of this prior")
    if not len(dataset):
        raise ShardError(f"{dataset.place}: expected codes of at least one image, found none")
    if not model.config.num_classes:
        return None
    return matched_labels(
        dataset.place,
        dataset.plan.class_names,
        model.config.named_classes,
        "those that the prior was trained with",
        needs_labels=model.config.label_dropout == 0,
    )


def _identity(dataset: CodeDataset) -> dict[str, Any]:
    """Return what bits per code depend on besides the prior: the codes with their labels."""
    views = {"view": 0, "views": dataset.views} if dataset.views > 1 else {}
    return {
        "what": "codes",
        "count": dataset.num_images,
        **views,
        "codes": dataset.manifest.root,
        "tokenizer": dataset.fingerprint,
        "grids": [list(grid) for grid in dataset.grids],
        "num_codes": list(dataset.num_codes),
    }
