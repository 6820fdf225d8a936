"""Encoding images to a code dataset.

The bytes written do not depend on the number of processes, nor on interruptions and reruns.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, overload

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from imagetok import seeding
from imagetok.arguments import checked_count, checked_path
from imagetok.batch_size import FittingBatches, chosen_size, images_at_once
from imagetok.codes.dataset_commit import EncodeReport, expected_bytes, free_bytes
from imagetok.codes.dataset_writer import write_dataset
from imagetok.codes.index import IndexPlan
from imagetok.codes.native import encode_native
from imagetok.codes.reader import open_plan
from imagetok.codes.results import Encoded, EncodingEstimate
from imagetok.codes.schema import MICRO_BATCH, PLAN, CodePlan, Skip, TokenizerId
from imagetok.codes.shard_writer import EncodedPart
from imagetok.data import ImageBatch, ImageDataset, ImageError
from imagetok.data.inputs import ImageInput, open_inputs
from imagetok.data.loader_workers import read_ahead, workers_for
from imagetok.data.subset import FirstImages
from imagetok.data.unreadable import parse_allowance
from imagetok.data.views import check_views, picture_contract, views_of
from imagetok.errors import ConfigError
from imagetok.eval_mode import eval_mode
from imagetok.host_copy import HostCopy
from imagetok.images import ImageSize, checked_size
from imagetok.precision import EncodePrecision, check_precision, check_tf32, has_tf32
from imagetok.processes import device_of
from imagetok.progress import ProgressBar, progress_shown
from imagetok.tokenizers import Tokenizer
from imagetok.tokenizers.deferred_checks import deferred_checks, refuse_unless_finite, stored_on
from imagetok.tokenizers.loading import open_tokenizer, recorded_name

MOST_AT_ONCE = 4096
logger = logging.getLogger("imagetok")
NATIVE_MICRO_BATCH = 1
"""Images per forward pass where each size of images is a dataset of its own: of most sizes there
are few images, a batch is padded to its size, and photos are large."""


class Estimate(NamedTuple):
    """Predicted size, time and free disk space of an encoding."""

    inputs: int
    num_shards: int
    num_bytes: int
    seconds: float
    free_bytes: int
    agreement: dict[str, float]
    """Share of the codes of some images that equal those of float32, by faster precision."""


@overload
def encode(
    tokenizer: Tokenizer | Path | str,
    data: ImageInput,
    out: Path | str,
    *,
    dry_run: Literal[False] = False,
    size: ImageSize | str | None = None,
    limit: int | None = None,
    max_skip: int | str = 0,
    samples_per_shard: int = 65536,
    views: int = 1,
    crop_range: float | None = None,
    precision: EncodePrecision = "float32",
    identity: str | None = None,
    class_names: Sequence[str] | None = None,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Encoded: ...
@overload
def encode(
    tokenizer: Tokenizer | Path | str,
    data: ImageInput,
    out: Path | str,
    *,
    dry_run: Literal[True],
    size: ImageSize | str | None = None,
    limit: int | None = None,
    max_skip: int | str = 0,
    samples_per_shard: int = 65536,
    views: int = 1,
    crop_range: float | None = None,
    precision: EncodePrecision = "float32",
    identity: str | None = None,
    class_names: Sequence[str] | None = None,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> EncodingEstimate: ...
def encode(
    tokenizer: Tokenizer | Path | str,
    data: ImageInput,
    out: Path | str,
    *,
    dry_run: bool = False,
    size: ImageSize | str | None = None,
    limit: int | None = None,
    max_skip: int | str = 0,
    samples_per_shard: int = 65536,
    views: int = 1,
    crop_range: float | None = None,
    precision: EncodePrecision = "float32",
    identity: str | None = None,
    class_names: Sequence[str] | None = None,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Encoded | EncodingEstimate:
    """Encode images to a code dataset in the folder `out`; a rerun continues an interrupted one.

    >>> done = imagetok.encode("runs/digits-edvae/tokenizer", "digits:train", "codes/train")
    >>> done.written, done.dataset[0].codes

    tokenizer: a Tokenizer, a folder or a Hub id.
    data: a data spec, a path, a data config, arrays, a list of PIL images, or your own Dataset;
    `identity` and `class_names` describe the last three. See `imagetok.data.inputs.open_inputs`.
    dry_run: return size, time and disk space as an EncodingEstimate, and write nothing.
    size: (height, width) of the images, instead of the tokenizer's own, for networks of
    convolutions alone; or "native", each image at its own size, cropped to the tokenizer's stride:
    `out` then holds a code dataset for each size, and index.json (see `codes.index`).
    limit: encode only the first `limit` images.
    max_skip: number of unreadable images to allow, or a percentage of all images such as "0.5%";
    the result's `skips` lists each of them with its reason.
    samples_per_shard: images per shard (of several views, the views of as many images as fit);
    several processes share the work shard by shard.
    views: 2 to encode each image and its mirror image; 10 for the middle and the corners of a
    larger picture, and their mirror images. See `CodeDataset.image_and_view`.
    crop_range: size of that picture relative to the tokenizer's images; None: 1.1.
    precision: arithmetic of the encoder. "float32" is full float32 on any device; "tf32" (GPUs
    alone) and "bfloat16" are faster on hardware that supports them, and change some codes: a dry
    run measures how many.
    device: None leaves a Tokenizer on its device, and picks a device for a loaded one.
    batch_size: on a CPU, images computed at once, in steps of 64, or of fewer for large images;
    affects speed and memory, not the codes. On a GPU, images per forward pass; None: as many as
    make each image cheaper. The plan records it, because codes may depend on it by rounding, and a
    rerun takes what it recorded.
    workers: loader workers, processes that read the next images while others are computed; affects
    speed and memory, not the codes. None: on a GPU one less than this process's share of the CPUs,
    for images that are decoded when they are read and have one size; otherwise 0, which reads in
    the threads that compute.
    Raises ConfigError for an invalid option or when `out` holds anything else, InputError when
    images are missing or more than max_skip are unreadable, ResourceError when the disk is too
    small, StoppedError after a signal (call `encode` again to continue).
    """
    checked_path("out", out)
    _check_options(limit, samples_per_shard, precision, batch_size)
    if workers is not None:
        checked_count("workers", workers, least=0)
    with progress_shown(progress):
        model = open_tokenizer(tokenizer, device)
        model.check_finite()
        if precision == "tf32":
            check_tf32(device_of(model), "precision", "float32 or bfloat16")
        is_native = size == "native"
        if is_native and (dry_run or views != 1):
            what, why = (
                ("dry_run", "for which all images have to be read")
                if dry_run
                else (f"views={views}", "at which there is one view of each image")
            )
            raise ConfigError(f"{what}: expected a size such as 96x64, found native, {why}")
        if size is not None and not is_native:
            model = model.at_size(*checked_size(size))
        crop_range = check_views(views, crop_range, model.image)
        pictures, source = open_inputs(
            data,
            picture_contract(model.image, crop_range),
            identity=identity,
            class_names=class_names,
        )
        pictures = pictures if limit is None else FirstImages(pictures, limit)
        max_skips = views * parse_allowance(str(max_skip), len(pictures))
        dataset = views_of(pictures, views, model.image)
        folder, name = Path(out), recorded_name(tokenizer, model)
        most = min(len(dataset), samples_per_shard)
        micro_batch = (
            MICRO_BATCH if is_native else planned_size(model, folder, precision, most, batch_size)
        )
        where = device_of(model)
        is_cpu = where.type == "cpu"
        threads = max(1, batch_size // micro_batch) if batch_size and is_cpu else None
        # Of most sizes there are few images, fewer than it pays to start workers for.
        loaders = (workers or 0) if is_native else workers_for(dataset, where, workers)

        def plan_for(sized: Tokenizer, images: ImageDataset, where: str) -> CodePlan:
            return make_plan(
                sized, images, source=where, name=name, samples_per_shard=samples_per_shard,
                views=views, crop_range=crop_range, precision=precision, micro_batch=micro_batch,
            )  # fmt: skip

        def encode_group(
            sized: Tokenizer, images: ImageDataset, to: Path, where: str, skips: int,
            shown: ProgressBar | None = None,
        ) -> EncodeReport:  # fmt: skip
            plan = plan_for(sized, images, where)
            if is_native:
                plan = plan.model_copy(update={"micro_batch": NATIVE_MICRO_BATCH})
            return encode_dataset(
                sized, images, to, plan,
                max_skips=skips, threads=threads, workers=loaders, progress=shown,
            )  # fmt: skip

        if dry_run:
            plan = plan_for(model, dataset, source)
            return EncodingEstimate(folder, *estimate(model, dataset, folder, plan), views=views)
        if not is_native:
            return Encoded.of(folder, encode_group(model, dataset, folder, source, max_skips))
        started = IndexPlan(
            tokenizer=TokenizerId(fingerprint=model.codes_fingerprint, name=name),
            source=source,
            source_identity=dataset.identity(),
            num_inputs=len(dataset),
            stride=model.stride,
            samples_per_shard=samples_per_shard,
            precision=precision,
        )
        report = encode_native(
            model, dataset, folder, started, encode_group, max_skips=max_skips, threads=threads
        )
        return Encoded.of(folder, report)


def _check_options(
    limit: int | None, samples_per_shard: int, precision: str, batch_size: int | None
) -> None:
    counts = {"limit": limit, "samples_per_shard": samples_per_shard, "batch_size": batch_size}
    for name, value in counts.items():
        if value is not None:
            checked_count(name, value)
    check_precision(precision)


def planned_size(
    tokenizer: Tokenizer,
    folder: Path,
    precision: EncodePrecision,
    count: int,
    asked: int | None = None,
) -> int:
    """Return the images per forward pass of an encoding: what `folder` records, or a good size.

    asked: the size for a GPU that a user gave. Otherwise a GPU tries sizes up to about `count`
    images, and a CPU has MICRO_BATCH, or fewer of large images.
    """
    if (folder / PLAN).is_file():
        return open_plan(folder).micro_batch
    device, usual = device_of(tokenizer), images_at_once(MICRO_BATCH, tokenizer.image)
    if device.type != "cuda":
        return usual
    if asked is not None:
        return asked
    image = tokenizer.image
    shape = image.channels, image.height, image.width

    def compute(size: int) -> object:
        pixels = torch.zeros(size, *shape, dtype=torch.uint8)
        with deferred_checks():
            return tokenizer.encode(stored_on(device, pixels, image), precision=precision)

    with eval_mode(tokenizer):
        return chosen_size("encoding", usual, device, compute, min(count, MOST_AT_ONCE))


def make_plan(
    tokenizer: Tokenizer,
    dataset: ImageDataset,
    *,
    source: str,
    name: str,
    samples_per_shard: int = 65536,
    views: int = 1,
    crop_range: float = 1.0,
    precision: EncodePrecision = "float32",
    micro_batch: int = MICRO_BATCH,
) -> CodePlan:
    """Return the plan for encoding `dataset` with `tokenizer`.

    source: the data spec; stored as information, and must be unchanged when encode is rerun.
    name: the tokenizer's name, stored as information only.
    views, crop_range: how many views of each image `dataset` has, and from what they were cut.
    precision: arithmetic of the encoder. micro_batch: images per forward pass.
    """
    samples_per_shard = max(views, samples_per_shard - samples_per_shard % views)
    return CodePlan(
        tokenizer=TokenizerId(fingerprint=tokenizer.codes_fingerprint, name=name),
        num_codes=tokenizer.num_codes,
        grids=tokenizer.grids,
        image=tokenizer.image,
        source=source,
        source_identity=dataset.identity(),
        num_inputs=len(dataset),
        labelled=bool(dataset.class_names),
        class_names=dataset.class_names,
        samples_per_block=min(1024, samples_per_shard),
        samples_per_shard=samples_per_shard,
        # Of whole images, so that none is read twice.
        micro_batch=max(views, micro_batch - micro_batch % views),
        views=views,
        crop_range=crop_range,
        precision=precision,
    )


def encode_dataset(
    tokenizer: Tokenizer,
    dataset: ImageDataset,
    folder: Path,
    plan: CodePlan,
    *,
    max_skips: int = 0,
    threads: int | None = None,
    workers: int = 0,
    progress: ProgressBar | None = None,
) -> EncodeReport:
    """Write the code dataset of `plan` into `folder`; a rerun continues an interrupted one.

    The processes of a distributed run share the shards. threads: number of micro-batches computed
    at once (default: torch's thread count on a CPU, 1 on a GPU); affects speed, not the bytes.
    workers: loader workers, see `encode_range`. max_skips: unreadable images to allow in the whole
    dataset. progress: the bar of several datasets, instead of a bar of this one.

    Raises ConfigError when `folder` holds another plan, InputError beyond max_skips, ResourceError
    when the disk is too small, StoppedError after a signal (rerun to continue).
    """
    return write_dataset(
        folder,
        plan,
        lambda inputs: encode_range(tokenizer, dataset, plan, inputs, threads, workers),
        "encoding",
        max_skips=max_skips,
        sample=dataset.sample,
        read_differently=dataset.read_differently,
        progress=progress,
    )


def estimate(tokenizer: Tokenizer, dataset: ImageDataset, folder: Path, plan: CodePlan) -> Estimate:
    """Estimate size and time of an encoding by encoding the first images; writes nothing."""
    count = min(len(dataset), 4 * plan.micro_batch)
    workers = workers_for(dataset, device_of(tokenizer))
    begun = time.perf_counter()
    for _ in encode_range(tokenizer, dataset, plan, range(count), None, workers):
        pass
    seconds = (time.perf_counter() - begun) * len(dataset) / max(count, 1)
    return Estimate(
        len(dataset),
        plan.num_shards,
        expected_bytes(plan),
        seconds,
        free_bytes(folder),
        code_agreement(tokenizer, dataset, plan),
    )


def code_agreement(tokenizer: Tokenizer, dataset: ImageDataset, plan: CodePlan) -> dict[str, float]:
    """Encode a micro-batch in each precision; return the share of codes equal to float32's.

    Names are those of `EncodePrecision` without float32; `tf32` is left out on devices without it.
    """
    inputs = range(min(len(dataset), plan.micro_batch))

    def encoded(precision: EncodePrecision) -> np.ndarray:
        changed = plan.model_copy(update={"precision": precision})
        parts = encode_range(tokenizer, dataset, changed, inputs, None)
        return np.concatenate([level.ravel() for part in parts for level in part.codes])

    exact = encoded("float32")
    faster: list[EncodePrecision] = ["tf32"] if has_tf32(device_of(tokenizer)) else []
    faster.append("bfloat16")
    return {name: float((encoded(name) == exact).mean()) for name in faster if len(exact)}


def encode_range(
    tokenizer: Tokenizer,
    dataset: ImageDataset,
    plan: CodePlan,
    inputs: range,
    threads: int | None,
    workers: int = 0,
) -> Generator[EncodedPart, None, None]:
    """Encode a range of inputs and yield its micro-batches in order.

    threads: micro-batches computed at once; None chooses as `encode_dataset` does. workers: loader
    workers that read the next ones meanwhile; with 0, the thread that computes a micro-batch reads
    it. On a GPU nothing waits for a micro-batch before the next one is computed.
    """
    if plan.precision == "tf32":
        threads = 1  # its setting is one for all threads
    if threads is None:
        is_cpu = device_of(tokenizer).type == "cpu"
        threads = torch.get_num_threads() if is_cpu else 1
    # One intra-op thread each: splitting a sum over threads would change its last bit.
    device = device_of(tokenizer)
    micros = [
        range(start, min(start + plan.micro_batch, inputs.stop))
        for start in range(inputs.start, inputs.stop, plan.micro_batch)
    ]
    with (
        eval_mode(tokenizer),
        ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        closing(_sources(dataset, micros, plan.micro_batch, workers, device)) as sources,
    ):
        batches = FittingBatches("encoding", plan.micro_batch)
        waiting: deque[Future[_Encoding]] = deque()
        try:
            for source in sources:
                waiting.append(pool.submit(_encode_micro, tokenizer, plan, batches, source))
                if len(waiting) == 2 * threads:
                    yield waiting.popleft().result().part()
            while waiting:
                yield waiting.popleft().result().part()
        finally:
            for future in waiting:
                future.cancel()


class _MicroBatch(NamedTuple):
    """The readable images of a micro-batch."""

    start: int
    """Index of its first input."""
    pixels: UInt8[Tensor, "B C H W"]
    """Padded with zeros to the size of all micro-batches."""
    labels: Int64[Tensor, " N"]
    indices: Int64[Tensor, " N"]
    skips: list[Skip]


class _Encoding(NamedTuple):
    """A micro-batch whose codes are being computed."""

    images: _MicroBatch
    results: HostCopy
    """The codes of each level, and which images have finite encoder outputs."""
    precision: EncodePrecision

    def part(self) -> EncodedPart:
        """Return the codes, after waiting for them; NotFiniteError if they are arbitrary."""
        *codes, finite = self.results.tensors()
        refuse_unless_finite(finite, self.precision)
        images = self.images
        return EncodedPart(
            tuple(level[: len(images.labels)].numpy() for level in codes),
            images.labels.numpy(),
            images.indices.numpy(),
            images.skips,
        )


def _sources(
    dataset: ImageDataset, micros: list[range], size: int, workers: int, device: torch.device
) -> Generator[Callable[[], _MicroBatch], None, None]:
    """Yield a function for each micro-batch that returns it: read by workers, or by its caller."""
    read = partial(_read_micro, dataset, size)
    if not workers:
        yield from (partial(read, micro) for micro in micros)
        return
    with closing(read_ahead(read, micros, workers, device)) as batches:
        for batch in batches:
            yield partial(_MicroBatch, *batch)


def _read_micro(dataset: ImageDataset, size: int, inputs: range) -> _MicroBatch:
    """Read a micro-batch of up to `size` inputs, and pad it to that size."""
    kept, skips = _read(dataset, inputs)
    padding = kept.images.new_zeros(size - len(kept.images), *kept.images.shape[1:])
    pixels = torch.cat([kept.images, padding])
    return _MicroBatch(inputs.start, pixels, kept.labels, kept.indices, skips)


def _encode_micro(
    tokenizer: Tokenizer,
    plan: CodePlan,
    batches: FittingBatches,
    source: Callable[[], _MicroBatch],
) -> _Encoding:
    """Start to encode a micro-batch, without waiting for the device."""
    images, device = source(), device_of(tokenizer)
    batch = stored_on(device, images.pixels, tokenizer.image)

    def work(part: slice) -> list[Tensor]:
        # Used only by quantizers whose `test_rule` samples codes.
        draw = seeding.generator(0, "encode", images.start + part.start, device=device)
        with deferred_checks() as checks:
            codes = tokenizer.encode(batch[part], generator=draw, precision=plan.precision)
            return [*codes, checks.finite(len(batch[part]), device)]

    return _Encoding(images, HostCopy(batches.compute(work, len(batch))), plan.precision)


def _read(dataset: ImageDataset, inputs: range) -> tuple[ImageBatch, list[Skip]]:
    """Read the images of a range; return the readable ones and a Skip for each of the others."""
    try:
        return dataset.read(inputs), []
    except ImageError:
        pass
    parts, skips = [], []
    for index in inputs:
        try:
            parts.append(dataset.read([index]))
        except ImageError as error:
            skips.append(Skip(index=index, path=str(error.path), reason=error.reason))
    if not parts:
        contract = dataset.contract
        empty = torch.zeros(0, contract.channels, contract.height, contract.width)
        none = torch.zeros(0, dtype=torch.int64)
        return ImageBatch(empty.to(torch.uint8), none, none), skips
    return ImageBatch(*(torch.cat(tensors) for tensors in zip(*parts, strict=True))), skips
