"""Encoding images at their own sizes: a code dataset for each grid of codes, and their index."""

import io
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from imagetok.codes.dataset_commit import EncodeReport, continue_folder, level_use, start_folder
from imagetok.codes.index import (
    STARTED,
    CodeIndex,
    GridEntry,
    IndexPlan,
    open_datasets,
    read_index,
)
from imagetok.codes.reader import open_codes
from imagetok.codes.schema import INDEX, Skip, read_json
from imagetok.data import ImageDataset
from imagetok.data.native_sizes import ImagesOfOneSize, SizedGroups, groups_by_size
from imagetok.data.unreadable import refuse_beyond
from imagetok.durable import lock, sha256_file, write_bytes, write_json
from imagetok.images import ImageSize
from imagetok.processes import process_state
from imagetok.progress import ProgressBar
from imagetok.signals import StopRequest
from imagetok.suggestions import counted
from imagetok.tokenizers import Tokenizer

logger = logging.getLogger("imagetok")


EncodeGroup = Callable[[Tokenizer, ImageDataset, Path, str, int, ProgressBar], EncodeReport]
"""Encodes images with a tokenizer of their size into a folder, with a name of their source, the
number of skips that are allowed, and the progress of all sizes; a rerun continues."""


def encode_native(
    tokenizer: Tokenizer,
    dataset: ImageDataset,
    folder: Path,
    plan: IndexPlan,
    encode_group: EncodeGroup,
    *,
    max_skips: int = 0,
    threads: int | None = None,
) -> EncodeReport:
    """Encode every image at its own size, cropped to the stride; a rerun continues.

    Images of one size are a dataset in a subfolder; one size is encoded after the other, so memory
    is bounded by one of them. Raises what `encode_dataset` raises.
    """
    _start(folder, plan)
    groups = _groups(dataset, tokenizer.stride, threads)
    refuse_beyond(groups.skipped, max_skips, len(dataset), plan.source)
    skips = [Skip(**asdict(image)) for image in groups.skipped]
    total, main = sum(map(len, groups.by_size.values())), process_state().is_main_process
    sizes = counted(len(groups.by_size), "size")
    logger.info("%s of %s", counted(total, "image"), sizes)
    reports: list[EncodeReport] = []
    with ProgressBar("encoding", total, 0, main, rate_unit="images/s") as progress:
        for size, indices in groups.by_size.items():
            sized = tokenizer.at_size(*size, crop=True)
            images = ImagesOfOneSize(dataset, indices, sized.image)
            left = max_skips - len(skips) - sum(report.skipped for report in reports)
            source, to = f"{plan.source}@{folder_of(size)}", folder / folder_of(size)
            reports.append(encode_group(sized, images, to, source, left, progress))
    if process_state().is_main_process:
        with lock(folder):
            _commit(folder, plan, groups, skips)
    process_state().wait_for_everyone()
    return _total(folder, tokenizer, skips, reports)


def folder_of(size: ImageSize) -> str:
    """Return the name of the subfolder of a size."""
    return f"{size[0]}x{size[1]}"


def _start(folder: Path, plan: IndexPlan) -> None:
    """Start an empty folder, or continue one with the same plan; ConfigError for others."""
    if process_state().is_main_process:
        new = plan.model_dump(mode="json")
        with lock(folder):
            if (folder / STARTED).is_file():
                old = read_json(folder / STARTED, IndexPlan).model_dump(mode="json")
                old["tokenizer"]["name"] = new["tokenizer"]["name"]  # never compared
                continue_folder(folder, "code dataset", old, new)
            else:
                start_folder(folder / STARTED, "code dataset", new)
    process_state().wait_for_everyone()


def _groups(dataset: ImageDataset, stride: int, threads: int | None) -> SizedGroups:
    """Read the size of every image; can be stopped by a signal."""
    found = SizedGroups({}, [])
    count = torch.get_num_threads() if threads is None else threads
    is_main = process_state().is_main_process
    with (
        StopRequest() as stop,
        ProgressBar("sizes", len(dataset), 0, is_main, rate_unit="images/s") as progress,
    ):
        for done in groups_by_size(dataset, stride, count):
            stop.check_here()
            if isinstance(done, SizedGroups):
                found = done
            else:
                progress.update(done)
    return found


def _commit(folder: Path, plan: IndexPlan, groups: SizedGroups, skips: list[Skip]) -> None:
    """Write the source indices of every dataset, and the index last."""
    entries = []
    for size, indices in groups.by_size.items():
        path = folder / f"{folder_of(size)}.npy"
        data = io.BytesIO()
        np.save(data, np.asarray(indices, dtype="<u8"))
        write_bytes(path, data.getvalue())
        dataset = open_codes(folder / folder_of(size))
        entries.append(
            GridEntry(
                folder=folder_of(size),
                grids=dataset.grids,
                inputs=dataset.manifest.inputs,
                written=len(dataset),
                root=dataset.manifest.root,
                sources_sha256=sha256_file(path),
            )
        )
    index = CodeIndex(
        plan=plan,
        datasets=tuple(entries),
        skipped=tuple(skips),
        inputs=plan.num_inputs,
        written=sum(entry.written for entry in entries),
    )
    write_json(folder / INDEX, index.model_dump(mode="json"))


def _total(
    folder: Path, tokenizer: Tokenizer, skips: list[Skip], reports: list[EncodeReport]
) -> EncodeReport:
    """Add up the reports of all datasets, with the codebook use over all of them."""
    counts = [torch.zeros(k, dtype=torch.int64) for k in tokenizer.num_codes]
    for _, dataset in open_datasets(folder):
        for shard in range(dataset.plan.num_shards):
            for total, level in zip(counts, dataset.record(shard).counts, strict=True):
                total += torch.tensor(level)
    index = read_index(folder)
    return EncodeReport(
        index.inputs,
        index.written,
        index.inputs - index.written,
        [*skips, *(skip for report in reports for skip in report.skips)],
        sum(report.num_shards for report in reports),
        sum(report.num_bytes for report in reports),
        tuple(level_use(level) for level in counts),
        views=1,
    )
