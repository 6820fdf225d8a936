"""`prior.evaluate_samples`: feature distances between samples of a prior and a data split."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from imagetok.artifacts import CONFIG
from imagetok.data import ArrayImages
from imagetok.data.inputs import ImageInput, open_inputs
from imagetok.durable import write_json
from imagetok.errors import ConfigError
from imagetok.evaluation.evaluate import Evaluation, evaluate
from imagetok.evaluation.feature_networks import NetworkSpecs
from imagetok.evaluation.protocols import protocol_named
from imagetok.evaluation.records import MeasureRecord
from imagetok.images import to_stored
from imagetok.io.output_paths import output_file
from imagetok.processes import process_state
from imagetok.tokenizers import Tokenizer
from prior.base import Label, Prior
from prior.generation import Generated, generate
from prior.loading import open_pair
from prior.sampling_params import SamplingParams

_DEFAULTS = SamplingParams()


def evaluate_samples(
    samples: Generated | Prior | Path | str,
    data: ImageInput,
    *,
    features: NetworkSpecs,
    tokenizer: Tokenizer | Path | str | None = None,
    n: int | None = None,
    label: Label = None,
    params: SamplingParams = _DEFAULTS,
    folder: Path | str | None = None,
    reference_count: int | None = None,
    protocol: str | None = None,
    beside: Path | str | Sequence[Path | str] | Mapping[str, MeasureRecord] = (),
    out: Path | str | None = None,
    max_skip: int | str = 0,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Measure the distance between samples of a prior and a data split, in features of networks.

    samples: the result of `generate`; a folder of samples; or a Prior, its folder or Hub id, from
    which n images are sampled first (default: as many as the protocol expects, else as `data` has),
    into `folder` or else in memory. label, params: the sampling parameters, as for `generate`.
    tokenizer: required for a folder of samples, for its image contract; for a prior, None is the
    embedded one. data: reference images, often the training images: a spec such as `cifar10:train`,
    a path, or any other image input. reference_count, protocol, features, beside, out, max_skip,
    batch_size, workers: as for `imagetok.evaluate`; the record also contains the prior and
    the sampling parameters.

    Raises ConfigError without features, without a required tokenizer, and if a record in `beside`
    was measured differently; ShardError for a tokenizer of other codes.

    Example: `prior.evaluate_samples("runs/gpt/prior", "digits:train", features=["inception"])`
    """
    file = output_file(out)
    options: dict[str, Any] = {
        "features": features, "reference_count": reference_count, "protocol": protocol,
        "beside": beside, "max_skip": max_skip, "device": device, "progress": progress,
        "batch_size": batch_size, "workers": workers,
    }  # fmt: skip
    if isinstance(samples, Path | str) and not _is_prior(samples):
        if tokenizer is None:
            raise ConfigError(
                f"{samples}: a folder of samples needs tokenizer=..., for its image contract"
            )
        return evaluate(tokenizer, data, samples=samples, out=out, **options)
    if not isinstance(samples, Generated):
        n = protocol_named(protocol).num_samples if n is None and protocol is not None else n
        drawing = {**params.model_dump(), "label": label, "out": folder, "device": device}
        samples = _draw(samples, data, tokenizer, n, drawing | {"progress": progress})
    found = evaluate(samples.tokenizer, data, samples=_images_of(samples), **options)
    found.record["subject"]["drawn_by"] = samples.record.model_dump(mode="json")
    if file is not None and process_state().is_main_process:
        write_json(file, found.record)
    return found


def _is_prior(place: Path | str) -> bool:
    """Return whether a path is a prior's folder or a Hub id, and not a folder of samples."""
    return (Path(place) / CONFIG).is_file() or not Path(place).exists()


def _draw(
    prior: Prior | Path | str,
    data: ImageInput,
    tokenizer: Tokenizer | Path | str | None,
    n: int | None,
    drawing: dict[str, Any],
) -> Generated:
    """Sample n images from a prior, or as many as `data` has."""
    model, own = open_pair(prior, tokenizer, drawing["device"])
    count = len(open_inputs(data, own.image).dataset) if n is None else n
    return generate(model, count, tokenizer=own, **drawing)


def _images_of(samples: Generated) -> ArrayImages:
    """Return the samples as uint8 images with the requested classes."""
    return ArrayImages(
        to_stored(samples.images),
        torch.tensor(samples.labels),
        name="samples",
        split="all",
        contract=samples.tokenizer.image,
        class_names=samples.record.class_names,
    )
