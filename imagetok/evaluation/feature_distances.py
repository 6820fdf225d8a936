"""Distances between two sets of images in the features of a network (FID, KID, precision, ...)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from accelerate.utils import gather_object
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from imagetok.data import ImageDataset
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
from imagetok.images import from_stored, to_stored
from imagetok.precision import full_float32
from imagetok.processes import device_of, process_state
from imagetok.progress import ProgressBar
from imagetok.tokenizers import Autoencoder

FEATURE_BATCH = 100
"""Images per batch of a feature network; fixed, so that results do not depend on it."""
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
) -> FeatureSet:
    """Compute the features of every image of a dataset, as uint8 pixels.

    change: applied to the images before, for example a reconstruction. The processes of a
    distributed run share the batches; every process gets all features.

    Raises InputError if the network returns no finite vectors (B, F).
    """
    state = process_state()
    device = device_of(network)
    starts = range(0, len(dataset), FEATURE_BATCH)
    parts: list[tuple[int, FeatureSet]] = []
    mine = starts[state.process_index :: state.num_processes]
    work = f"features of {network.name}"
    with ProgressBar(work, len(mine), enabled=state.is_main_process) as progress:
        for done, start in enumerate(mine, start=1):
            check_peers()
            batch = dataset.read(range(start, min(start + FEATURE_BATCH, len(dataset))))
            images = batch.images.to(device)
            found = network(images if change is None else change(images))
            check_features(network.name, found.vectors)
            logits = None if found.logits is None else found.logits.cpu()
            parts.append((start, FeatureSet(found.vectors.float().cpu(), logits, batch.labels)))
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


def check_features(network: str, vectors: Tensor) -> None:
    """Raise InputError unless features are finite and of shape (B, F)."""
    if vectors.ndim != 2:
        raise InputError(
            f"--features {network}: expected features (B, F), one vector per image, "
            f"found {tuple(vectors.shape)}; pool or flatten them"
        )
    if not bool(vectors.isfinite().all()):
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
