"""Distances between two sets of images in the features of a network (FID, KID, precision, ...)."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import NamedTuple

import torch
from accelerate.utils import gather_object
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from imagetok.batch_size import images_at_once
from imagetok.data import ImageBatch, ImageDataset
from imagetok.data.loader_workers import read_ahead
from imagetok.data.subset import drawn_indices
from imagetok.distributed.peers import check_peers
from imagetok.errors import InputError
from imagetok.evaluation.distances import (
    FeatureMoments,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from imagetok.evaluation.feature_networks import FeatureNetwork
from imagetok.evaluation.pace import Pace
from imagetok.host_copy import Started, one_behind
from imagetok.images import from_stored, to_stored
from imagetok.precision import full_float32
from imagetok.processes import device_of, process_state, without_waiting
from imagetok.progress import ProgressBar
from imagetok.tokenizers import Autoencoder
from imagetok.tokenizers.deferred_checks import deferred_checks

FEATURE_BATCH = 100
"""Images per batch of a feature network; fixed, so that results do not depend on it. Of large
images there are fewer, see `images_at_once`."""
NEIGHBOURS = 3


class ManifoldCounts(NamedTuple):
    """Numbers of feature vectors that enter precision and recall, drawn with a fixed seed."""

    reference: int
    samples: int


class FeatureSet(NamedTuple):
    """Features, logits and labels of every image of a dataset, in order."""

    vectors: Float[Tensor, "N F"]
    logits: Float[Tensor, "N C"] | None
    labels: Int64[Tensor, " N"]
    class_names: tuple[str, ...] = ()
    """Names of the logits' classes; empty if unknown."""


@full_float32()
def features_of(
    network: FeatureNetwork,
    dataset: ImageDataset,
    change: Callable[[UInt8[Tensor, "B C H W"]], UInt8[Tensor, "B C H W"]] | None = None,
    pace: Pace | None = None,
) -> FeatureSet:
    """Compute the features of every image of a dataset, as uint8 pixels.

    change: applied to the images before, for example a reconstruction. pace: how images are read
    and batched. The processes of a distributed run share the batches; every process gets all
    features.

    Raises InputError if the network returns no finite vectors (B, F).
    """
    state, pace = process_state(), pace or Pace()
    device = device_of(network)
    work = f"features of {network.name}"

    def compute(images: UInt8[Tensor, "B C H W"]) -> list[Tensor]:
        with deferred_checks() as checks:
            found = network(images if change is None else change(images))
        check_shape(network.name, found.vectors)
        finite = checks.finite(len(images), device) & found.vectors.isfinite().all(dim=1)
        logits = [] if found.logits is None else [found.logits]
        return [finite, found.vectors.float(), *logits]

    contract = dataset.contract
    shape = contract.channels, contract.height, contract.width
    batches = pace.batches(
        *(work, images_at_once(FEATURE_BATCH, contract), device),
        lambda size: compute(torch.zeros(size, *shape, dtype=torch.uint8, device=device)),
        len(dataset),
    )
    starts = range(0, len(dataset), batches.size)
    mine = starts[state.process_index :: state.num_processes]
    pieces = [range(start, min(start + batches.size, len(dataset))) for start in mine]

    def started(read: Iterator[ImageBatch]) -> Iterator[Started[tuple[int, Tensor]]]:
        for start in mine:
            check_peers()
            batch = next(read)
            images = without_waiting(batch.images, device)
            results = batches.compute(lambda part, all_=images: compute(all_[part]), len(images))
            yield Started(results, (start, batch.labels))

    parts: list[tuple[int, FeatureSet]] = []
    workers = pace.workers(dataset, device)
    with (
        ProgressBar(work, len(mine), enabled=state.is_main_process) as progress,
        closing(read_ahead(dataset.read, pieces, workers, device)) as read,
    ):
        results = one_behind(started(read))
        for done, ((finite, vectors, *logits), (start, labels)) in enumerate(results, start=1):
            refuse_not_finite(network.name, finite)
            parts.append((start, FeatureSet(vectors, next(iter(logits), None), labels)))
            progress.update(done)
    if state.num_processes > 1:
        parts = gather_object(parts)
    ordered = [part for _, part in sorted(parts, key=lambda part: part[0])]
    logits = [part.logits for part in ordered if part.logits is not None]
    return FeatureSet(
        torch.cat([part.vectors for part in ordered]),
        torch.cat(logits) if logits else None,
        torch.cat([part.labels for part in ordered]),
        network.class_names,
    )


def check_shape(network: str, vectors: Tensor) -> None:
    """Raise InputError unless features are of shape (B, F)."""
    if vectors.ndim != 2:
        raise InputError(
            f"--features {network}: expected features (B, F), one vector per image, "
            f"found {tuple(vectors.shape)}; pool or flatten them"
        )


def refuse_not_finite(network: str, finite: Bool[Tensor, " B"]) -> None:
    """Raise InputError unless the features of all images are finite."""
    if not bool(finite.all()):
        raise InputError(f"--features {network}: the network returns NaN or infinity")


def reconstruct_bytes(model: Autoencoder) -> Callable[[Tensor], Tensor]:
    """Return a function that maps uint8 images to their reconstructions as uint8 images."""
    return lambda stored: to_stored(model.reconstruct(from_stored(stored, model.image)))


def compare_sets(
    real: FeatureSet, other: FeatureSet, network: str, counts: ManifoldCounts | None = None
) -> dict[str, float]:
    """Compare the features of `other` with those of `real`; measure names include the network.

    counts: of the vectors for precision and recall; None is all.

    Measures are `frechet`, `kernel` (squared maximum mean discrepancy), `precision` and `recall`
    (k = 3), and for a classifier also `classifier_score`, the Inception score with its
    probabilities, over ten contiguous parts of `other`. For the original networks the names are
    those of the papers: `fid`, `kid`, `inception_score` with `inception`; `precision`, `recall`
    with `vgg16`.
    """
    moments = [FeatureMoments.of(s.vectors) for s in (real, other)]
    drawn, images = other.vectors, real.vectors
    if counts is not None:
        images = images[drawn_indices(len(images), counts.reference)]
        drawn = drawn[drawn_indices(len(drawn), counts.samples)]
    precision, recall = precision_recall(drawn, images, NEIGHBOURS)
    measures = {
        "frechet": frechet_distance(*moments),
        "kernel": kernel_distance(real.vectors, other.vectors),
        "precision": precision,
        "recall": recall,
    }
    if other.logits is not None:
        measures["classifier_score"] = inception_score(other.logits)[0]
    return {_name(measure, network): value for measure, value in measures.items()}


def class_agreement(real: FeatureSet, other: FeatureSet) -> float | None:
    """Return the share of images with the same most likely class; None without a classifier."""
    if real.logits is None or other.logits is None:
        return None
    return float((real.logits.argmax(1) == other.logits.argmax(1)).double().mean())


def class_accuracy(found: FeatureSet, class_names: tuple[str, ...]) -> float | None:
    """Return the share of images whose most likely class is their label.

    class_names: names of the labels' classes. Returns None without a classifier, or unless its
    class names are known and equal to these, in the same order.
    """
    if found.logits is None or not class_names or found.class_names != class_names:
        return None
    if not 0 <= int(found.labels.min()) <= int(found.labels.max()) < len(class_names):
        return None
    return float((found.logits.argmax(dim=1) == found.labels).double().mean())


def _name(measure: str, network: str) -> str:
    standard = {"frechet": "fid", "kernel": "kid", "classifier_score": "inception_score"}
    if network == "inception" and measure in standard:
        return standard[measure]
    if network == "vgg16" and measure in ("precision", "recall"):
        return measure
    return f"{measure}_{network}"
