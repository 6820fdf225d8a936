"""A folder that keeps the features of reference images, which many measurements share."""

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from imagetok.data import ImageDataset
from imagetok.durable import canonical_json, write_bytes
from imagetok.evaluation.feature_distances import FeatureSet, features_of
from imagetok.evaluation.feature_networks import FeatureNetwork
from imagetok.evaluation.pace import Pace
from imagetok.processes import device_of, process_state

PROBED = 4
"""Images whose features identify a network."""


def cached_features(
    network: FeatureNetwork, dataset: ImageDataset, cache: Path | None, pace: Pace | None = None
) -> FeatureSet:
    """Return the features of every image of a dataset, read from a folder if they are there.

    cache: folder to read from and write to; None: none. A file is named by a hash of everything
    that features depend on; a damaged one is computed again. pace: see `features_of`.
    The processes of a distributed run share the computation and use no cache.
    """
    if cache is None or process_state().num_processes > 1:
        return features_of(network, dataset, pace=pace)
    path = cache / f"{_key(network, dataset)}.safetensors"
    found = _read(path)
    if found is None:
        computed = features_of(network, dataset, pace=pace)
        found = {"vectors": computed.vectors, "labels": computed.labels}
        found |= {} if computed.logits is None else {"logits": computed.logits}
        write_bytes(path, save(found, {"sha256": _hash(found)}))
    return FeatureSet(found["vectors"], found.get("logits"), found["labels"], network.class_names)


def _key(network: FeatureNetwork, dataset: ImageDataset) -> str:
    """Return a hash of everything that the features depend on.

    The features of the first images are part of it, because the code of a network of one's own can
    change without its weights, and rounding differs between devices.
    """
    first = dataset.read(range(min(PROBED, len(dataset)))).images.to(device_of(network))
    parts = {
        "network": network.identity(),
        "images": [dataset.identity(), dataset.sample()],
        "contract": dataset.contract.model_dump(mode="json"),
        "probe": _hash({"vectors": network(first).vectors.float().cpu()}),
    }
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def _read(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file; None if it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            stored = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError):
        return None
    return tensors if stored == _hash(tensors) and {"vectors", "labels"} <= tensors.keys() else None


def _hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().data)
    return digest.hexdigest()
