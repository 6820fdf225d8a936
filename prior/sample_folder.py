"""A folder of samples: its record samples.json, and its images."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from imagetok.codes.dataset_commit import continue_folder, start_folder
from imagetok.codes.decode import picture_file
from imagetok.codes.reader import open_plan
from imagetok.codes.schema import PLAN, CodePlan, TokenizerId, read_json
from imagetok.durable import canonical_json, write_json
from imagetok.errors import ConfigError, InputError
from imagetok.io.json_files import Count
from imagetok.processes import device_of
from imagetok.tokenizers import Tokenizer
from prior.base import Label, Prior
from prior.sampling import micro_batch_on
from prior.sampling_params import SamplingParams

RECORD = "samples.json"
MOST = 2**31 - 1
"""The most samples of a folder; lists of what is missing are kept in memory."""
ClassNumber = Annotated[int, Field(ge=-1, lt=2**31)]


class SamplesRecord(SamplingParams):
    """Content of samples.json: the prior and the sampling parameters of a folder of samples."""

    prior: str
    origin: str | None
    """Path or Hub id of the prior; informative only."""
    tokenizer: str
    num_images: Count
    labels: Annotated[tuple[ClassNumber, ...], Field(min_length=1)]
    """Sample j has the class labels[j % len(labels)]; -1: no class."""
    class_names: tuple[str, ...] = ()
    """Names of the prior's classes by number; empty without classes, and in earlier versions."""
    micro_batch: Annotated[int, Field(gt=0, lt=2**31)] | None = None
    """Images computed at once, on which logits may depend by rounding; None: 16 on a CPU, 64 on a
    GPU."""
    added: ClassVar[tuple[str, ...]] = ("class_names", "micro_batch")

    def params(self) -> SamplingParams:
        """Return only the sampling parameters."""
        return SamplingParams.model_validate(
            self.model_dump(include={*SamplingParams.model_fields})
        )

    def cycled_labels(self) -> list[int]:
        """Return the class of each image; -1: no class."""
        return [self.labels[j % len(self.labels)] for j in range(self.num_images)]


def record_of(
    prior: Prior,
    tokenizer: Tokenizer,
    n: int,
    label: Label,
    params: SamplingParams,
    micro_batch: int | None = None,
) -> SamplesRecord:
    """Build the record of n samples; raise ConfigError for parameters the prior cannot use."""
    if n > MOST:
        raise ConfigError(f"-n: expected at most {MOST:,} samples, found {n:,}; draw fewer")
    prior.sample(0, label=label, **params.model_dump())
    return SamplesRecord(
        prior=prior.fingerprint,
        origin=prior.origin,
        tokenizer=tokenizer.fingerprint,
        num_images=n,
        labels=tuple(prior.labels_for(label)),
        class_names=prior.config.named_classes,
        micro_batch=micro_batch,
        **params.model_dump(),
    )


def recorded_micro_batch(folder: Path) -> int | None:
    """Return the micro-batch of the samples in a folder, or of the codes of samples; 0 for none."""
    if (folder / RECORD).is_file():
        return read_json(folder / RECORD, SamplesRecord).micro_batch
    return open_plan(folder).micro_batch if (folder / PLAN).is_file() else 0


def commit_record(out: Path, record: SamplesRecord) -> None:
    """Write the record to an empty folder, or continue a folder with the same record."""
    path = out / RECORD
    if path.is_file():
        stored = read_json(path, SamplesRecord)
        old, new = stored.model_dump(mode="json"), continued(stored, record)
        is_more = old["num_images"] < record.num_images
        same = old | {"num_images": record.num_images} if is_more else old
        continue_folder(out, "set of samples", same, new)
        if is_more:
            write_json(path, new)
    else:
        start_folder(path, "set of samples", record.model_dump(mode="json"))


def continued(stored: SamplesRecord, record: SamplesRecord) -> dict[str, Any]:
    """Return a record for continuing the samples of `stored`, with what that does not depend on."""
    kept = {
        "origin": stored.origin,
        "class_names": stored.class_names,
        "micro_batch": stored.micro_batch,
    }
    return record.model_copy(update=kept).model_dump(mode="json")


def plan_of(
    record: SamplesRecord, prior: Prior, tokenizer: Tokenizer, samples_per_shard: int
) -> CodePlan:
    """Build the plan of a code dataset of samples; its source states prior and parameters."""
    whole = record.model_dump(mode="json")
    made_by = {name: whole[name] for name in ("prior", "labels", *SamplingParams.model_fields)}
    described = ", ".join(f"{name}={value}" for name, value in made_by.items())
    classes = prior.config.num_classes
    return CodePlan(
        tokenizer=TokenizerId(fingerprint=tokenizer.codes_fingerprint, name=tokenizer.origin or ""),
        num_codes=prior.config.num_codes,
        grids=prior.config.grids,
        image=tokenizer.image,
        source=f"samples: {described}",
        source_identity=hashlib.sha256(canonical_json(made_by)).hexdigest(),
        num_inputs=record.num_images,
        labelled=classes > 0,
        class_names=prior.config.named_classes,
        samples_per_block=min(1024, samples_per_shard),
        samples_per_shard=samples_per_shard,
        micro_batch=record.micro_batch or micro_batch_on(device_of(prior)),
    )


def read_drawn(out: Path, images: Sequence[int]) -> Tensor:
    """Read images of a folder of samples: (N, C, H, W) uint8, grey or RGB.

    Raises InputError for a missing or damaged image.
    """
    pictures = []
    for j in images:
        try:
            with Image.open(picture_file(out, j)) as picture:
                opened = picture.convert("L" if picture.mode == "L" else "RGB")
        except OSError as error:
            raise InputError(
                f"{picture_file(out, j)}: cannot be read ({error}); delete it and run the same "
                "imagetok sample command again"
            ) from None
        pictures.append(torch.from_numpy(np.atleast_3d(np.array(opened))))
    return torch.stack(pictures).movedim(-1, 1)
