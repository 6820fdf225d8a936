"""Decoding codes to images, in padded batches of a fixed size."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from imagetok.arguments import checked_count, checked_path
from imagetok.batch_size import images_at_once
from imagetok.code_maps import check_codes
from imagetok.codes.dataset_commit import continue_folder, start_folder
from imagetok.codes.fingerprint import check_same_tokenizer
from imagetok.codes.index import is_index, open_datasets
from imagetok.codes.reader import CodeDataset, open_codes
from imagetok.codes.results import Decoded
from imagetok.codes.schema import read_json
from imagetok.config import Section
from imagetok.durable import lock, write_bytes
from imagetok.host_copy import Started, one_behind
from imagetok.images import Images, to_stored
from imagetok.pictures import grid, palette, png_bytes
from imagetok.processes import device_of, usable_cpus, without_waiting
from imagetok.progress import ProgressBar, progress_shown
from imagetok.quantizers import Codes
from imagetok.signals import StopRequest
from imagetok.tokenizers import Tokenizer
from imagetok.tokenizers.deferred_checks import deferred_checks
from imagetok.tokenizers.loading import open_tokenizer

DECODE_BATCH = 64
"""Images per forward pass; fewer of large images, see `images_at_once`."""
MOST_WRITERS = 8
RECORD = "decoded.json"


class DecodeRecord(Section):
    """The record in a folder of decoded images that says which codes they come from."""

    codes: str
    """Root hash of the code dataset, which covers the fingerprint of its tokenizer."""
    decoder: str = ""
    """Fingerprint of the tokenizer that decodes them; "" for the one that they are bound to."""
    added: ClassVar[tuple[str, ...]] = ("decoder",)

    def shown(self) -> dict[str, str]:
        """Return the record for messages."""
        return {"codes": self.codes, "decoder": self.decoder or "that of the codes' tokenizer"}


class DecodeReport(NamedTuple):
    """Number of images in the folder, and how many of them the call wrote."""

    num_images: int
    num_new: int


def decode(
    tokenizer: Tokenizer | Path | str,
    codes: CodeDataset | Path | str,
    out: Path | str,
    *,
    limit: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Decoded:
    """Decode a code dataset to PNG images, one per sample, named by source index.

    >>> imagetok.decode("runs/digits-edvae/tokenizer", "codes/test", "decoded", limit=100)

    tokenizer: a Tokenizer, a folder or a Hub id.
    codes: a code dataset, its folder or URL; of the index of several sizes each is decoded, to a
    subfolder of its name.
    out: the folder of the images; a rerun writes the missing ones.
    limit: decode only the first `limit` samples.
    device: None leaves a Tokenizer on its device, and picks a device for a loaded one.
    Raises ShardError when another tokenizer made the codes or a shard is damaged, ConfigError
    when `out` holds anything else, StoppedError after a signal (call it again to continue).
    """
    checked_path("out", out)
    if limit is not None:
        checked_count("limit", limit)
    with progress_shown(progress):
        model = open_tokenizer(tokenizer, device)
        if isinstance(codes, Path | str) and is_index(Path(codes)):
            return _decode_index(model, Path(codes), Path(out), limit)
        dataset = codes if isinstance(codes, CodeDataset) else open_codes(codes)
        report = decode_dataset(model, dataset, Path(out), limit)
        return Decoded(Path(out), report.num_images, report.num_new)


def _decode_index(tokenizer: Tokenizer, folder: Path, out: Path, limit: int | None) -> Decoded:
    """Decode the datasets of an index, each to a subfolder of its name."""
    total = num_new = 0
    for entry, dataset in open_datasets(folder):
        left = None if limit is None else limit - total
        if left == 0:
            break
        report = decode_dataset(tokenizer, dataset, out / entry.folder, left)
        total, num_new = total + report.num_images, num_new + report.num_new
    return Decoded(out, total, num_new)


def decode_in_batches(tokenizer: Tokenizer, codes: Codes) -> Images:
    """Decode codes with `Tokenizer.decode`; return the images on the CPU.

    Every forward pass has the same number of images, the last one padded, so that an image does not
    depend on how many are decoded with it.
    """
    tokenizer = tokenizer.at_grids([(level.shape[1], level.shape[2]) for level in codes])
    codes = check_codes(codes, tokenizer.num_codes, tokenizer.grids)
    size = images_at_once(DECODE_BATCH, tokenizer.image)
    starts = range(0, max(len(codes[0]), 1), size)
    parts = [tuple(level[start : start + size] for level in codes) for start in starts]
    started = (Started([_decode_checked(tokenizer, part, size)], None) for part in parts)
    return torch.cat([images for (images,), _ in one_behind(started)])


def _decode_checked(tokenizer: Tokenizer, codes: Codes, size: int) -> Images:
    """Decode up to `size` codes that were checked, without waiting for the device."""
    device, count = device_of(tokenizer), len(codes[0])
    padded = (
        torch.cat([level, level.new_zeros(size - count, *level.shape[1:])]) for level in codes
    )
    there = tuple(
        without_waiting(level, device) if level.device.type == "cpu" else level.to(device)
        for level in padded
    )
    with deferred_checks():
        return tokenizer.decode(there)[:count]


def check_dataset_fingerprint(dataset: CodeDataset, tokenizer: Tokenizer) -> None:
    """Raise ShardError when the codes were made by another tokenizer."""
    made_by = dataset.plan.tokenizer
    remedy = "pass the tokenizer that made them"
    check_same_tokenizer(
        str(dataset.place), made_by.fingerprint, tokenizer.codes_fingerprint, "--tokenizer", remedy,
        name=made_by.name,
    )  # fmt: skip


def save_images(images: Images, folder: Path, names: Sequence[int]) -> None:
    """Write each image to `NNNNNN.png`; label maps are written as indices into a palette."""
    has_classes = not images.is_floating_point()

    def save(name: int, pixels: Tensor) -> None:
        picture = grid(pixels[None], columns=1, padding=0)
        if has_classes:
            picture.putpalette(palette().tobytes())
        write_bytes(picture_file(folder, name), png_bytes(picture))

    with ThreadPoolExecutor(min(usable_cpus(), MOST_WRITERS)) as pool:
        list(pool.map(save, names, to_stored(images)))


def picture_file(folder: Path, name: int) -> Path:
    """Return the path of an image in `folder`; a file with this name is always complete."""
    return folder / f"{name:06d}.png"


def decode_dataset(
    tokenizer: Tokenizer, dataset: CodeDataset, folder: Path, limit: int | None = None
) -> DecodeReport:
    """Decode a code dataset to PNG files named by source index; a rerun writes the missing ones.

    Raises ShardError when another tokenizer made the codes or a shard is damaged, ConfigError when
    `folder` holds anything else, StoppedError after a signal.
    """
    tokenizer.check_decodes()
    check_dataset_fingerprint(dataset, tokenizer)
    tokenizer.check_finite()
    count = len(dataset) if limit is None else min(limit, len(dataset))
    num_new = 0
    with (
        lock(folder),
        StopRequest() as stop,
        ProgressBar("decoding", count, rate_unit="images/s") as progress,
    ):
        is_own = tokenizer.fingerprint == dataset.fingerprint
        decoder = "" if is_own else tokenizer.fingerprint
        _commit_origin(folder, DecodeRecord(codes=dataset.manifest.root, decoder=decoder))
        for (images,), (keys, missing) in one_behind(_started(tokenizer, dataset, folder, count)):
            stop.check_here()
            save_images(images[missing], folder, keys[missing].tolist())
            num_new += len(missing)
            progress.advance(len(keys))
        progress.update(count)
    return DecodeReport(count, num_new)


def _started(
    tokenizer: Tokenizer, dataset: CodeDataset, folder: Path, count: int
) -> Iterator[Started[tuple[Tensor, list[int]]]]:
    """Start to decode each batch that lacks a file in `folder`; yield it with its keys, and the
    rows that are missing."""
    tokenizer = tokenizer.at_grids(dataset.grids)
    size = images_at_once(DECODE_BATCH, tokenizer.image)
    for start in range(0, count, size):
        batch = dataset[start : min(start + size, count)]
        files = [picture_file(folder, key) for key in batch.keys.tolist()]
        missing = [i for i, file in enumerate(files) if not file.is_file()]
        if missing:
            codes = check_codes(batch.codes, tokenizer.num_codes, tokenizer.grids)
            yield Started([_decode_checked(tokenizer, codes, size)], (batch.keys, missing))


def _commit_origin(folder: Path, origin: DecodeRecord) -> None:
    """Write the record of an empty folder, or check that the folder is of the same codes."""
    path, what = folder / RECORD, "set of decoded images"
    if path.is_file():
        continue_folder(folder, what, read_json(path, DecodeRecord).shown(), origin.shown())
    else:
        start_folder(path, what, origin.model_dump(mode="json"))
