"""`imagetok sample` and `prior.generate`: samples as images or codes, resumable and distributed."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from imagetok.arguments import checked_count
from imagetok.codes.dataset_commit import EncodeReport
from imagetok.codes.dataset_writer import write_dataset
from imagetok.codes.decode import decode_in_batches, picture_file, save_images
from imagetok.codes.reader import CodeDataset, open_codes
from imagetok.codes.shard_writer import EncodedPart
from imagetok.data import open_image, preprocess
from imagetok.distributed.peers import check_same_on_all, shared_work
from imagetok.durable import lock, write_bytes
from imagetok.eval_mode import eval_mode
from imagetok.images import Images, from_stored
from imagetok.pictures import as_rgb, drawn_labels, grid, named_grid, png_bytes
from imagetok.processes import device_of, process_state
from imagetok.progress import ProgressBar, progress_shown
from imagetok.results import Result
from imagetok.signals import StopRequest
from imagetok.suggestions import counted
from imagetok.tokenizers import Tokenizer
from prior.base import Label, Prior
from prior.captured_sampling import check_device
from prior.loading import open_pair
from prior.sample_folder import (
    RECORD,
    SamplesRecord,
    commit_record,
    plan_of,
    read_drawn,
    record_of,
    recorded_micro_batch,
)
from prior.sample_npz import check_npz, parts_folder, read_npz, write_samples
from prior.sampling import fast_micro_batch, micro_batch_on
from prior.sampling_params import SamplingParams, sampling_params
from prior.sequence import Codes

GRID = "grid.png"
CHUNK = 64
"""Images sampled, decoded and written together; a killed run loses at most so many."""
MOST_IN_GRID = 100


class SamplingSpeed(NamedTuple):
    """How fast images were sampled and decoded, and written if they were."""

    first_images: int
    """Images that were sampled together first."""
    first_seconds: float
    """Seconds until these were there."""
    images_per_second: float
    """Over all images of this process."""


class _Clock:
    """Takes the times for `SamplingSpeed`."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._first: tuple[int, float] | None = None
        self._images = 0

    def add(self, images: int) -> None:
        self._images += images
        if self._first is None:
            self._first = images, self._passed()

    def speed(self) -> SamplingSpeed | None:
        if self._first is None:
            return None
        return SamplingSpeed(*self._first, self._images / self._passed())

    def _passed(self) -> float:
        return max(time.perf_counter() - self._begun, 1e-9)


@dataclass(frozen=True, repr=False, eq=False)
class Generated(Result):
    """The result of `generate`: sampled images."""

    record: SamplesRecord
    """The prior and the sampling parameters."""
    tokenizer: Tokenizer
    folder: Path | None
    """Folder with NNNNNN.png, samples.json and grid.png; None if the images are in memory only."""
    num_new: int
    """Number of images that were not in the folder before."""
    codes: Codes | None
    """(n, h, w) int64 per level, coarse to fine; None if this call did not sample all of them,
    because some were in the folder before or other processes sampled them."""
    _drawn: Images | None = field(default=None)
    npz: Path | None = None
    """File of all images as `arr_0`; None if none was written."""
    speed: SamplingSpeed | None = None
    """Of this process in this call; None if it sampled no image."""

    @cached_property
    def images(self) -> Images:
        """Images (n, C, H, W) in [0, 1], or label maps (n, H, W); read from folder or npz file."""
        if self._drawn is not None:
            return self._drawn
        contract = self.tokenizer.image
        if self.folder is None:
            assert self.npz is not None
            return from_stored(read_npz(self.npz)[:, : contract.channels], contract)
        files = [picture_file(self.folder, j) for j in range(self.record.num_images)]
        stored = [
            preprocess(open_image(file, contract.mode == "labels"), contract) for file in files
        ]
        return from_stored(torch.stack(stored), contract)

    @property
    def labels(self) -> list[int]:
        """The class of each image; -1: no class."""
        return self.record.cycled_labels()

    def title(self) -> str:
        written = [str(place) for place in (self.folder, self.npz) if place is not None]
        place = f"in {' and '.join(written)}" if written else "in memory"
        return f"{counted(self.record.num_images, 'image')} of a prior, {place}"

    def rows(self) -> dict[str, object]:
        """Return the prior and the sampling parameters by name."""
        given = {
            k: v for k, v in self.record.params().model_dump().items() if v not in (None, False)
        }
        return {"prior": self.record.origin or self.record.prior[:16], **given}

    def pictures(self) -> dict[str, np.ndarray]:
        """Return the first images as one grid."""
        shown = self.images[: min(self.record.num_images, MOST_IN_GRID)]
        return {"new images": np.array(grid(as_rgb(shown), _columns(self.record)))}


@dataclass(frozen=True, repr=False, eq=False)
class GeneratedCodes(Result):
    """The result of `generate_codes`: a code dataset of samples."""

    folder: Path
    report: EncodeReport

    @cached_property
    def dataset(self) -> CodeDataset:
        """The code dataset, opened for reading."""
        return open_codes(self.folder)

    def title(self) -> str:
        return f"codes of {counted(self.report.written, 'image')} of a prior, in {self.folder}"

    def rows(self) -> dict[str, object]:
        """Return the codebook usage of each level."""
        return {
            f"level {i}": f"{use.codes_used} of {counted(use.num_codes, 'code')} used, "
            f"perplexity {use.perplexity:.1f}"
            for i, use in enumerate(self.report.usage)
        }


def generate(
    prior: Prior | Path | str,
    n: int,
    *,
    tokenizer: Tokenizer | Path | str | None = None,
    out: Path | str | None = None,
    npz: Path | str | None = None,
    label: Label = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    guidance: float = 1.0,
    seed: int = 0,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
    cuda_graphs: bool = False,
    progress: bool = True,
) -> Generated:
    """Sample n new images.

    prior: a Prior, its folder, or a Hub id.
    tokenizer: by default, the one embedded in the prior.
    out: a folder for samples.json, NNNNNN.png and finally grid.png; None keeps the images in
    memory. Call it again with the same folder to continue, also with a larger n. The processes of
    a distributed run share the work on a folder.
    npz: a file for all images in one array, `arr_0` of (n, H, W, 3) uint8, as the evaluation of ADM
    reads it; grey images are repeated in three channels. If every image has a class, `arr_1` has
    the classes. Memory does not grow with n. Without `out`, the images are first kept in the folder
    NPZ.parts, which is deleted in the end; call it again to continue. A file that has these samples
    is kept, one that has fewer of them is replaced.
    label to seed: see `Prior.sample`. With these fixed, sample j does not depend on n.
    batch_size: images sampled and decoded together [64, or as many as are computed at once];
    affects speed and memory only. On a GPU as many are computed at once as make each image cheaper;
    samples.json records the number, on which codes may depend by rounding, and a rerun keeps it.
    cuda_graphs: see `Prior.sample`.
    Raises ConfigError for parameters out of range, if `out` or `npz` holds anything else, and for
    an npz of label maps; ShardError for a tokenizer of other codes; StoppedError after a signal
    (call it again to continue).

    >>> samples = prior.generate("runs/digits-gpt/prior", 16, label=3, out="threes")
    >>> samples.images.shape
    """
    model, own = open_pair(prior, tokenizer, device)
    params = sampling_params(
        temperature=temperature, top_k=top_k, top_p=top_p, greedy=greedy, guidance=guidance,
        seed=seed,
    )  # fmt: skip
    own.check_decodes()
    n = checked_count("n", n)
    folder = parts_folder(Path(npz)) if out is None and npz is not None else out
    record_of(model, own, n, label, params)  # raises for what the prior cannot use
    micro_batch = _micro_batch(model, n, None if folder is None else Path(folder))
    record = record_of(model, own, n, label, params, micro_batch)
    size = max(CHUNK, micro_batch or 0) if batch_size is None else batch_size
    size = checked_count("batch_size", size)
    sampling = _sampling(model, label, params, micro_batch, cuda_graphs)
    with progress_shown(progress):
        if npz is not None:
            work = _in_npz if out is None else _in_folder
            assert folder is not None
            return work(model, own, Path(folder), record, sampling, size, Path(npz))
        if out is None:
            return _in_memory(model, own, record, sampling, size)
        return _in_folder(model, own, Path(out), record, sampling, size)


def generate_codes(
    prior: Prior | Path | str,
    n: int,
    shards: Path | str,
    *,
    tokenizer: Tokenizer | Path | str | None = None,
    samples_per_shard: int = 1024,
    label: Label = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    guidance: float = 1.0,
    seed: int = 0,
    device: torch.device | str | None = None,
    cuda_graphs: bool = False,
    progress: bool = True,
) -> GeneratedCodes:
    """Sample the codes of n images and store them as a code dataset; the key of sample j is j.

    shards: the folder of the dataset. Call it again to continue. The processes of a distributed
    run share the shards. The other arguments and errors are those of `generate`.

    >>> prior.generate_codes("runs/digits-gpt/prior", 10_000, "codes").dataset
    """
    model, own = open_pair(prior, tokenizer, device)
    params = sampling_params(
        temperature=temperature, top_k=top_k, top_p=top_p, greedy=greedy, guidance=guidance,
        seed=seed,
    )  # fmt: skip
    record_of(model, own, n, label, params)  # raises for what the prior cannot use
    folder = Path(shards)
    micro_batch = _micro_batch(model, min(n, samples_per_shard), folder)
    record = record_of(model, own, n, label, params, micro_batch)
    plan = plan_of(record, model, own, samples_per_shard)
    sampling = _sampling(model, label, params, micro_batch, cuda_graphs)
    with progress_shown(progress):
        report = write_dataset(
            folder, plan, lambda images: _parts(model, images, sampling), "sampling"
        )
    return GeneratedCodes(folder, report)


def _sampling(
    prior: Prior,
    label: Label,
    params: SamplingParams,
    micro_batch: int | None,
    cuda_graphs: bool,
) -> dict[str, Any]:
    """Return arguments of `Prior.sample`; ConfigError for cuda_graphs where there are none."""
    if cuda_graphs:
        check_device(device_of(prior))
        prior.prepare_static()
    how = {"label": label, "micro_batch": micro_batch, "cuda_graphs": cuda_graphs}
    return {**how, **params.model_dump()}


def _micro_batch(prior: Prior, n: int, folder: Path | None) -> int | None:
    """Return the images to compute at once: what a folder records, or what suits a GPU.

    None is the usual number of a device.
    """
    recorded = 0 if folder is None else recorded_micro_batch(folder)
    if recorded != 0:
        return recorded
    device = device_of(prior)
    if device.type == "cpu":
        return None
    with eval_mode(prior):
        found = fast_micro_batch(prior.prepare(), device, n, prior.config.length)
    return None if found == micro_batch_on(device) else found


def _draw(prior: Prior, images: range, sampling: dict[str, Any]) -> Codes:
    """Sample the codes of some images; sampling: arguments of `Prior.sample`."""
    return prior.sample(len(images), first=images.start, **sampling)


def _chunks(n: int, size: int) -> list[range]:
    return [range(start, min(start + size, n)) for start in range(0, n, size)]


def _in_memory(
    prior: Prior, tokenizer: Tokenizer, record: SamplesRecord, sampling: dict[str, Any], size: int,
) -> Generated:  # fmt: skip
    n = record.num_images
    codes: list[Codes] = []
    images: list[Images] = []
    clock = _Clock()
    with ProgressBar("sampling", n, rate_unit="images/s") as bar:
        for chunk in _chunks(n, size):
            codes.append(_draw(prior, chunk, sampling))
            images.append(decode_in_batches(tokenizer, codes[-1]))
            clock.add(len(chunk))
            bar.update(chunk.stop)
    together = torch.cat(images)
    return Generated(record, tokenizer, None, n, _joined(codes), together, speed=clock.speed())


def _in_folder(
    prior: Prior, tokenizer: Tokenizer, out: Path, record: SamplesRecord,
    sampling: dict[str, Any], size: int, npz: Path | None = None,
) -> Generated:  # fmt: skip
    n, state = record.num_images, process_state()
    has_npz = npz is not None and check_npz(npz, record, tokenizer.image)
    chunks = _chunks(n, size)
    codes: list[Codes] = []
    made_by = record.model_dump(mode="json", exclude={"prior", "tokenizer", "origin"})
    owners = {"prior": record.prior, "tokenizer": record.tokenizer}
    with (
        StopRequest() as stop,
        shared_work({"samples": made_by, "batch_size": size}, lambda: owners),
        lock(out) if state.is_main_process else nullcontext(),
    ):
        if state.is_main_process:
            commit_record(out, record)
        state.wait_for_everyone()
        there = (out / RECORD).is_file()
        check_same_on_all(
            {}, {f"{RECORD} in the output folder": "there" if there else "no such file"}
        )
        missing = [[j for j in chunk if not picture_file(out, j).is_file()] for chunk in chunks]
        state.wait_for_everyone()  # every process has listed the files before any writes
        mine = range(state.process_index, len(chunks), state.num_processes)
        todo = [i for i in mine if missing[i]]
        total, done = sum(len(chunks[i]) for i in todo), 0
        is_main, clock = state.is_main_process, _Clock()
        with ProgressBar("sampling", total, 0, is_main, rate_unit="images/s") as progress:
            for i in todo:
                stop.check_here()
                codes.append(_draw(prior, chunks[i], sampling))
                images = decode_in_batches(tokenizer, codes[-1])
                save_images(images[[j - chunks[i].start for j in missing[i]]], out, missing[i])
                done += len(chunks[i])
                clock.add(len(chunks[i]))
                progress.update(done)
        speed = clock.speed()
        state.wait_for_everyone()
        if state.is_main_process:
            shown = read_drawn(out, range(min(n, MOST_IN_GRID)))
            write_bytes(out / GRID, png_bytes(_grid(shown, record, prior.config.class_names)))
            if npz is not None and not has_npz:
                with ProgressBar("writing", n, rate_unit="images/s") as progress:

                    def check(written: int) -> None:
                        stop.check_here()
                        progress.update(written)

                    write_samples(npz, out, record, tokenizer.image, check)
        state.wait_for_everyone()
    whole = _joined(codes) if len(todo) == len(chunks) else None
    num_new = sum(map(len, missing))
    return Generated(record, tokenizer, out, num_new, whole, npz=npz, speed=speed)


def _in_npz(
    prior: Prior, tokenizer: Tokenizer, parts: Path, record: SamplesRecord,
    sampling: dict[str, Any], size: int, npz: Path,
) -> Generated:  # fmt: skip
    """Sample images into an npz file alone, by way of a folder that is deleted in the end."""
    state = process_state()
    if check_npz(npz, record, tokenizer.image):
        made = Generated(record, tokenizer, None, 0, None, npz=npz)
    else:
        made = _in_folder(prior, tokenizer, parts, record, sampling, size, npz)
        made = replace(made, folder=None)
    state.wait_for_everyone()
    if state.is_main_process and parts.is_dir():
        shutil.rmtree(parts)
    return made


def _joined(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(levels) for levels in zip(*parts, strict=True))


def _columns(record: SamplesRecord) -> int:
    """Return the number of columns of the grid: one per class with an image, if these are few."""
    count, classes = min(record.num_images, MOST_IN_GRID), len(record.labels)
    return min(classes, count) if 1 < classes <= 20 else max(1, round(count**0.5))


def _grid(images: Tensor, record: SamplesRecord, class_names: Sequence[str]) -> Image.Image:
    """Arrange samples with their classes, above each column if it has one, or above each image."""
    columns = _columns(record)
    classes = drawn_labels(record.cycled_labels()[: len(images)], class_names)
    if columns == min(len(record.labels), len(images)) > 1 and any(classes):
        return named_grid(images, columns, titles=classes[:columns])
    return named_grid(images, columns, names=classes if any(classes) else ())


def _parts(prior: Prior, images: range, sampling: dict[str, Any]) -> Iterator[EncodedPart]:
    """Sample the codes of images in chunks, with their classes and numbers."""
    cycle = prior.labels_for(sampling["label"])
    size = max(CHUNK, sampling["micro_batch"] or 0)
    for start in range(images.start, images.stop, size):
        chunk = range(start, min(start + size, images.stop))
        codes: Sequence[Tensor] = _draw(prior, chunk, sampling)
        labels = np.array([cycle[j % len(cycle)] for j in chunk])
        yield EncodedPart(
            tuple(level.cpu().numpy() for level in codes), labels, np.array(chunk), []
        )
