"""Records of measures: values with their subject and their identity."""

import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypedDict

import torch
from torch import Tensor

from imagetok.config import differences
from imagetok.data import NO_LABEL, ImageDataset
from imagetok.data.class_names import both_lists, match_classes
from imagetok.data.sample_folder import open_samples
from imagetok.data.subset import ImageSubset
from imagetok.distributed.peers import check_peers, shared_work
from imagetok.durable import canonical_json
from imagetok.errors import ConfigError, InputError, NotFiniteError
from imagetok.evaluation import evaluate_reconstruction
from imagetok.evaluation.batches import rounds
from imagetok.evaluation.earlier_measures import renamed
from imagetok.evaluation.feature_cache import cached_features
from imagetok.evaluation.feature_distances import (
    NEIGHBOURS,
    ManifoldCounts,
    class_accuracy,
    class_agreement,
    compare_sets,
    features_of,
    reconstruct_bytes,
)
from imagetok.evaluation.feature_networks import FeatureNetwork
from imagetok.evaluation.lpips import PerceptualDistance, mean_distance
from imagetok.evaluation.pace import Pace
from imagetok.evaluation.protocols import check_reconstructions, check_samples
from imagetok.io.json_files import read_json
from imagetok.processes import process_state
from imagetok.progress import ProgressBar
from imagetok.protocols import PUBLISHED_SAMPLES, Protocol
from imagetok.tokenizers import Autoencoder

logger = logging.getLogger("imagetok")


class MeasureRecord(TypedDict):
    """Content of a JSON file of measures."""

    subject: dict[str, Any]
    """What was measured: fingerprints, folders, names. May differ between columns of a table."""
    identity: dict[str, Any]
    """Everything else that the values depend on; records that differ here are not comparable."""
    measures: dict[str, float | int]


def measure_reconstructions(
    model: Autoencoder,
    dataset: ImageDataset,
    networks: Sequence[FeatureNetwork],
    distances: Sequence[PerceptualDistance] = (),
    beside: Mapping[str, MeasureRecord] = MappingProxyType({}),
    protocol: Protocol | None = None,
    cache: Path | None = None,
    pace: Pace | None = None,
) -> MeasureRecord:
    """Measure reconstruction errors, codebook utilisation, LPIPS and feature distances.

    networks: feature networks for distances between all reconstructions and all images (rFID, ...).
    distances: perceptual distances. beside: records, by name, to be shown in one table with this
    one. protocol: a published protocol to follow. cache: see `cached_features`. pace: how
    images are read and batched.

    Raises ConfigError before any work if a record in `beside` is not comparable or the images are
    not those of the protocol, NotFiniteError if reconstructions are not finite.
    """
    if protocol is not None:
        check_reconstructions(protocol, dataset)
    identity = identity_of("reconstructions", dataset, len(dataset), [*networks, *distances])
    identity |= _named(protocol)
    check_comparable(identity, beside)
    with _shared(identity, {"tokenizer": model.fingerprint, "some images": dataset.sample}):
        measures = _reconstruction_measures(model, dataset, networks, distances, cache, pace)
    return MeasureRecord(
        subject={"tokenizer": model.fingerprint, "origin": model.origin},
        identity=identity,
        measures=measures,
    )


@contextmanager
def _shared(
    identity: Mapping[str, Any], more: Mapping[str, str | Callable[[], str]]
) -> Iterator[None]:
    """Check that all processes of a distributed run measure the same data in the same way."""
    settings = {"networks": sorted(identity["networks"]), "what": identity["what"]}

    def data() -> dict[str, Any]:
        return {**identity, **{k: v() if callable(v) else v for k, v in more.items()}}

    with shared_work(settings, data):
        yield


def _reconstruction_measures(
    model: Autoencoder,
    dataset: ImageDataset,
    networks: Sequence[FeatureNetwork],
    distances: Sequence[PerceptualDistance],
    cache: Path | None,
    pace: Pace | None,
) -> dict[str, float | int]:
    measures = _with_progress(model, dataset, pace)
    _check_finite(measures)
    measures |= {d.name: mean_distance(d, model, dataset, pace) for d in distances}
    for network in networks:
        real = cached_features(network, dataset, cache, pace)
        classes = dataset.class_names
        back = features_of(network, dataset, reconstruct_bytes(model), pace)
        apart = compare_sets(real, back, network.name)
        measures |= {f"r{k}": v for k, v in apart.items() if not k.startswith("classifier")}
        measures |= _present(
            {
                f"class_agreement_{network.name}": class_agreement(real, back),
                f"class_accuracy_{network.name}": class_accuracy(back, classes),
                f"class_accuracy_of_images_{network.name}": class_accuracy(real, classes),
            }
        )
    return measures


def _with_progress(
    model: Autoencoder, dataset: ImageDataset, pace: Pace | None
) -> dict[str, float | int]:
    """Run `evaluate_reconstruction` with a progress bar; a step is one batch per process."""
    state = process_state()
    count = len(rounds(len(dataset), model.image, state.process_index, state.num_processes))
    done = iter(range(count))

    def check() -> None:
        check_peers()
        progress.update(next(done))

    with ProgressBar("reconstructing", count, enabled=state.is_main_process) as progress:
        measures = evaluate_reconstruction(model, dataset, check, pace)
        progress.update(count)
    return measures


def measure_samples(
    samples: ImageDataset | Path,
    reference: ImageDataset,
    networks: Sequence[FeatureNetwork],
    beside: Mapping[str, MeasureRecord] = MappingProxyType({}),
    protocol: Protocol | None = None,
    cache: Path | None = None,
    pace: Pace | None = None,
) -> MeasureRecord:
    """Measure the distance between samples and reference images in the features of every network.

    samples: a folder, see `open_samples`, or a dataset with the image contract of the reference.
    beside, protocol, cache, pace: as for `measure_reconstructions`. Precision and recall compare
    equal numbers of samples and images, at most 50,000, unless the protocol has other counts.

    Raises ConfigError without networks, if a record in `beside` is not comparable, and for counts,
    images or networks that are not the protocol's.
    """
    if not networks:
        raise ConfigError(
            "--samples: expected a network to compare them with; add --features NETWORK"
        )
    name = str(samples) if isinstance(samples, Path) else f"{samples.name}:{samples.split}"
    if isinstance(samples, Path):
        samples = open_samples(samples, reference.contract)
    if protocol is not None:
        check_samples(protocol, len(samples), reference, networks)
    counts = _manifold_counts(len(reference), len(samples), protocol)
    identity = identity_of("samples", reference, len(samples), networks) | _named(protocol)
    if counts != ManifoldCounts(len(reference), len(samples)):
        identity["precision_recall_counts"] = counts._asdict()
    check_comparable(identity, beside)
    with _shared(identity, {"samples": samples.identity, "some samples": samples.sample}):
        measures = _sample_measures(samples, reference, networks, counts, cache, pace)
    return MeasureRecord(subject={"samples": name}, identity=identity, measures=measures)


def _sample_measures(
    samples: ImageDataset,
    reference: ImageDataset,
    networks: Sequence[FeatureNetwork],
    counts: ManifoldCounts,
    cache: Path | None,
    pace: Pace | None,
) -> dict[str, float | int]:
    measures: dict[str, float | int] = {"num_samples": len(samples)}
    if reference.skipped:
        measures["skipped"] = len(reference.skipped)
    classes = reference.class_names
    for network in networks:
        real = cached_features(network, reference, cache, pace)
        drawn = features_of(network, samples, pace=pace)
        measures |= compare_sets(real, drawn, network.name, counts)
        if network.class_names == classes:
            drawn = drawn._replace(labels=_renumbered(drawn.labels, samples.class_names, classes))
        measures |= _present(
            {
                f"class_accuracy_{network.name}": class_accuracy(drawn, classes),
                f"class_accuracy_of_images_{network.name}": class_accuracy(real, classes),
            }
        )
    return measures


def _renumbered(labels: Tensor, names: tuple[str, ...], classes: tuple[str, ...]) -> Tensor:
    """Return labels of samples, of classes `names`, as the reference images number `classes`.

    They are all NO_LABEL, so that they are not measured, if the names are not known, or if not all
    of them are among `classes`.
    """
    match = match_classes(names, classes)
    if names and not match.missing:
        return match.renumbered(labels)
    if names:
        logger.warning(
            "classes of samples are not measured: expected them among those of the images, %s",
            both_lists(names, classes),
        )
    return torch.full_like(labels, NO_LABEL)


def _manifold_counts(
    num_images: int, num_samples: int, protocol: Protocol | None
) -> ManifoldCounts:
    """Return how many images and samples enter precision and recall, which depend on both."""
    if protocol is not None:
        most = protocol.manifold
        return ManifoldCounts(min(num_images, most[0]), min(num_samples, most[1]))
    count = min(num_images, num_samples, PUBLISHED_SAMPLES)
    return ManifoldCounts(count, count)


def _named(protocol: Protocol | None) -> dict[str, Any]:
    """Return the protocol's part of an identity."""
    return {} if protocol is None else {"protocol": protocol.name}


def side_by_side(records: Mapping[str, MeasureRecord]) -> dict[str, dict[str, float | int]]:
    """Tabulate records: one row per measure, one column per record.

    Raises ConfigError if two were measured with different networks, images or counts.
    """
    (first, expected), *others = records.items()
    check_comparable(expected["identity"], dict(others), first)
    rows = dict.fromkeys(measure for record in records.values() for measure in record["measures"])
    return {
        row: {name: r["measures"][row] for name, r in records.items() if row in r["measures"]}
        for row in rows
    }


def read_record(path: Path) -> MeasureRecord:
    """Read a file written by `imagetok evaluate --out`; raise InputError for any other file."""
    try:
        content = read_json(path)
        record = MeasureRecord(
            subject=dict(content["subject"]),
            identity=dict(content["identity"]),
            measures=renamed(dict(content["measures"])),
        )
        canonical_json(record)  # raises ValueError for NaN and infinities at any depth
    except OSError as error:
        raise InputError(f"{path}: cannot read the file: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{path}: expected finite measures, as written by imagetok evaluate --out"
        ) from None
    for name, value in record["measures"].items():
        if type(value) not in (int, float) or abs(value) > sys.float_info.max:
            found = repr(value)[:80]
            raise InputError(f"{path}: measures: {name}: expected a number, found {found}")
    return record


def identity_of(
    what: str,
    data: ImageDataset,
    count: int,
    networks: Sequence[FeatureNetwork | PerceptualDistance],
) -> dict[str, Any]:
    """Return the identity of a record: what measures of `count` images against `data` depend on.

    `data_drawn_from` is the number of images of which `data` is a subset; absent for all images.
    `score_parts` says which samples form a part of a classifier score; absent in records of earlier
    versions, where a part was every tenth sample.
    """
    part = {"data_drawn_from": len(data.whole)} if isinstance(data, ImageSubset) else {}
    return {
        "what": what,
        "count": count,
        "data": f"{data.name}:{data.split}",
        "data_count": len(data),
        **part,
        "data_identity": data.identity(),
        "image": data.contract.model_dump(mode="json"),
        "pixels": "bytes 0..255",
        "neighbours": NEIGHBOURS,
        **({"score_parts": "contiguous"} if what == "samples" else {}),
        "networks": {network.name: network.identity() for network in networks},
    }


def check_comparable(
    expected: Mapping[str, Any], records: Mapping[str, MeasureRecord], name: str = "this"
) -> None:
    """Raise ConfigError unless all records have the expected identity, that of `name`."""
    for other, record in records.items():
        different = differences(dict(expected), record["identity"])
        if different:
            differing = "; ".join(
                f"{key}: {_brief(a)}, {_brief(b)}" for key, (a, b) in sorted(different.items())
            )
            raise ConfigError(
                f"{name} and {other} are not comparable, they were measured differently: "
                f"{differing}"
            )


def _brief(value: object) -> str:
    if value is None:
        return "none"
    return "there" if isinstance(value, dict) else repr(value)


def _check_finite(measures: Mapping[str, float | int]) -> None:
    wrong = [f"{name} is {value}" for name, value in measures.items() if not math.isfinite(value)]
    if wrong:
        raise NotFiniteError(
            f"expected finite measures, found {', '.join(wrong)}: the tokenizer's decoder returns "
            "NaN or infinity, because training has diverged; train it again with a lower "
            "train.learning_rate or train.clip_norm=1.0"
        )


def _present(measures: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in measures.items() if value is not None}
