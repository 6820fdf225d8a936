"""Samples in one npz file, as the evaluation of ADM (Dhariwal and Nichol 2021) reads them.

`arr_0` has the images, (N, H, W, 3) uint8; grey ones have three equal channels. `arr_1` has their
classes, (N,) int64, if every image has one. A third member, samples.json, is the record that a
folder of samples has.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imagetok.config import differences
from imagetok.durable import readable_json
from imagetok.errors import ConfigError
from imagetok.images import ImageContract
from imagetok.io.json_files import MAX_BYTES, as_section, parse_json
from imagetok.io.npz_files import StreamedArray, member_of, write_npz
from prior.sample_folder import RECORD, SamplesRecord, continued, read_drawn

PART = 64
"""Images read and written together."""


def check_npz(path: Path, record: SamplesRecord, contract: ImageContract) -> bool:
    """Return whether a file has the samples of a record; False also if it has fewer of them.

    Raises ConfigError if it has something else, and for label maps, which have no colours.
    """
    if contract.mode == "labels":
        raise ConfigError(
            "--npz: expected a tokenizer of pixels, found one of label maps, whose classes have no "
            "colours; use --out, which writes them as PNG files with a palette"
        )
    if path.is_dir():
        raise ConfigError(f"--npz {path}: expected a file name, found a folder; add a name to it")
    if not path.exists():
        return False
    found = member_of(path, RECORD, MAX_BYTES)
    if found is None:
        raise ConfigError(f"--npz {path}: exists and has no {RECORD}; choose another name")
    where = f"{path}: {RECORD}"
    stored = as_section(parse_json(found, where), SamplesRecord, where)
    changed = differences(stored.model_dump(mode="json"), continued(stored, record))
    if changed.keys() == {"num_images"} and changed["num_images"][0] < record.num_images:
        return False  # more of the same samples
    if changed:
        listed = ", ".join(f"{k} {a!r}, asked for {b!r}" for k, (a, b) in changed.items())
        raise ConfigError(
            f"--npz {path}: has other samples: {listed}; delete it, or choose another name"
        )
    return True


def write_samples(
    path: Path, folder: Path, record: SamplesRecord, contract: ImageContract,
    check: Callable[[int], None],
) -> None:  # fmt: skip
    """Write the images of a folder of samples to an npz file, in order.

    check: called with the number of images written so far; may raise to stop.
    """
    count, labels = record.num_images, record.cycled_labels()

    def parts() -> Iterator[np.ndarray]:
        for start in range(0, count, PART):
            check(start)
            images = read_drawn(folder, range(start, min(start + PART, count)))
            yield images.expand(-1, 3, -1, -1).movedim(1, -1).numpy()

    shape = (count, contract.height, contract.width, 3)
    arrays = {"arr_0": StreamedArray(shape, np.dtype(np.uint8), parts())}
    if min(labels) >= 0:
        classes = np.array(labels)
        arrays["arr_1"] = StreamedArray((count,), np.dtype(np.int64), [classes])
    write_npz(path, arrays, {RECORD: readable_json(record.model_dump(mode="json"))})


def read_npz(path: Path) -> Tensor:
    """Return all images of an npz file, (N, 3, H, W) uint8."""
    with np.load(path) as arrays:
        return torch.from_numpy(arrays["arr_0"]).movedim(-1, 1)


def parts_folder(path: Path) -> Path:
    """Return the folder that keeps the images until the npz file is written."""
    return path.with_name(f"{path.name}.parts")
