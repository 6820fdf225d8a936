"""Codes back to images, in fixed padded batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from imagetok.codes.dataset_commit import continue_folder, start_folder
from imagetok.codes.fingerprint import check_same_tokenizer
from imagetok.codes.reader import CodeDataset, open_codes
from imagetok.codes.results import Decoded
from imagetok.codes.schema import read_json
from imagetok.config import Section
from imagetok.durable import lock, write_bytes
from imagetok.errors import ConfigError
from imagetok.images import Images, to_stored
from imagetok.pictures import grid, palette, png_bytes
from imagetok.processes import device_of
from imagetok.progress import ProgressBar, progress_shown
from imagetok.quantizers import Codes
from imagetok.signals import StopRequest
from imagetok.tokenizers import Tokenizer
from imagetok.tokenizers.loading import open_tokenizer

DECODE_BATCH = 64
RECORD = "decoded.json"


class DecodeRecord(Section):
    """What made a folder of decoded images."""

    codes: str
    """The root hash of their dataset, which covers the tokenizer's fingerprint."""


class DecodeReport(NamedTuple):
    """What a run left in a folder."""

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
    """Turn a code dataset back into images, one PNG each, named by source index.

    >>> imagetok.decode("runs/digits-edvae/tokenizer", "codes/test", "decoded", limit=100)

    tokenizer: an object, a folder or a Hub id. codes: a code dataset, its folder or URL.
    out: the folder of the images; a rerun continues there. limit: only the first so many images.
    device: None leaves a tokenizer object where it is, and chooses for what is loaded.
    Raises ShardError when the codes are another tokenizer's or a shard is damaged, ConfigError
    when `out` holds anything else, StoppedError after a signal (call it again to continue).
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit: expected 1 or more, found {limit}")
    with progress_shown(progress):
        model = open_tokenizer(tokenizer, device)
        dataset = codes if isinstance(codes, CodeDataset) else open_codes(codes)
        report = decode_dataset(model, dataset, Path(out), limit)
        return Decoded(Path(out), report.num_images, report.num_new)


def decode_in_batches(tokenizer: Tokenizer, codes: Codes) -> Images:
    """Images as from `Tokenizer.decode`, on the CPU.

    Every forward pass has `DECODE_BATCH` images, the last one padded, so an image does not depend
    on how many are decoded with it.
    """
    device = device_of(tokenizer)
    count = len(codes[0])
    parts = []
    for start in range(0, max(count, 1), DECODE_BATCH):
        part = tuple(level[start : start + DECODE_BATCH].to(device) for level in codes)
        size = len(part[0])
        padded = tuple(
            torch.cat([level, level.new_zeros(DECODE_BATCH - size, *level.shape[1:])])
            for level in part
        )
        parts.append(tokenizer.decode(padded)[:size].cpu())
    return torch.cat(parts)


def check_dataset_fingerprint(dataset: CodeDataset, tokenizer: Tokenizer) -> None:
    """Raise ShardError when the codes are another tokenizer's."""
    made_by = dataset.plan.tokenizer
    remedy = "pass the tokenizer that made them"
    check_same_tokenizer(
        str(dataset.place), made_by.fingerprint, tokenizer.fingerprint, "--tokenizer", remedy,
        name=made_by.name,
    )  # fmt: skip


def save_images(images: Images, folder: Path, names: Sequence[int]) -> None:
    """Write `NNNNNN.png` for each image; the classes of label maps become places in a palette."""
    for name, pixels in zip(names, to_stored(images), strict=True):
        picture = grid(pixels[None], columns=1, padding=0)
        if not images.is_floating_point():
            picture.putpalette(palette().tobytes())
        write_bytes(picture_file(folder, name), png_bytes(picture))


def picture_file(folder: Path, name: int) -> Path:
    """Where an image of a folder lies; it is complete if it is there."""
    return folder / f"{name:06d}.png"


def decode_dataset(
    tokenizer: Tokenizer, dataset: CodeDataset, folder: Path, limit: int | None = None
) -> DecodeReport:
    """Decode a code dataset to PNG files named by source index; a rerun continues.

    Raises ShardError when the codes are another tokenizer's or a shard is damaged, ConfigError
    when `folder` holds anything else, StoppedError after a signal.
    """
    check_dataset_fingerprint(dataset, tokenizer)
    tokenizer.check_finite()
    count = len(dataset) if limit is None else min(limit, len(dataset))
    num_new = 0
    with (
        lock(folder),
        StopRequest() as stop,
        ProgressBar("decoding", count, rate_unit="images/s") as progress,
    ):
        _commit_origin(folder, DecodeRecord(codes=dataset.manifest.root))
        for start in range(0, count, DECODE_BATCH):
            stop.check_here()
            batch = dataset.__getitems__(range(start, min(start + DECODE_BATCH, count)))
            files = [picture_file(folder, key) for key in batch.keys.tolist()]
            missing = [i for i, file in enumerate(files) if not file.is_file()]
            if missing:
                images = decode_in_batches(tokenizer, batch.codes)[missing]
                save_images(images, folder, batch.keys[missing].tolist())
                num_new += len(missing)
            progress.update(start + len(files))
    return DecodeReport(count, num_new)


def _commit_origin(folder: Path, origin: DecodeRecord) -> None:
    """Begin an empty folder, or go on in one of the same codes."""
    path, new = folder / RECORD, origin.model_dump(mode="json")
    if path.is_file():
        old = read_json(path, DecodeRecord).model_dump(mode="json")
        continue_folder(folder, "set of decoded images", old, new)
    else:
        start_folder(path, "set of decoded images", new)
