"""How fast JPEGs of photo size are read, decoded and resized.

python benchmarks/loading.py PICTURES --out docs/results/loading.json
The pictures of a folder, enlarged to a shorter side of 256 to 500 pixels and stored as JPEGs of
quality 90, are decoded by Pillow, by Pillow with a smaller scale where the format allows it
(`draft`), and by torchvision, resized by Pillow and by torchvision, and read by the library at
256 x 256 pixels with 0, 1 and 2 loader workers. Decoding and resizing: CPU milliseconds per image,
and the largest difference from Pillow's pixels. Loading: images per second.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional

from imagetok.data import FolderConfig, open_images
from imagetok.data.image_decoding import decode_image
from imagetok.data.loader_workers import read_ahead
from imagetok.data.preprocessing import preprocess
from imagetok.images import ImageContract

SIDE, BATCH = 256, 32
CONTRACT = ImageContract(height=SIDE, width=SIDE, resize="cover", interpolation="bicubic")


def write_jpegs(pictures: Path, folder: Path, count: int) -> None:
    """Enlarged pictures with noise, so that their files are as large as those of photos."""
    draw = np.random.default_rng(0)
    endings = (".jpeg", ".jpg", ".png")
    files = [file for file in sorted(pictures.rglob("*")) if file.suffix.lower() in endings]
    for i, file in enumerate(islice(files, count)):
        picture = Image.open(file).convert("RGB")
        scale = draw.uniform(256, 500) / min(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC), dtype=np.float64)
        noisy = (pixels + draw.normal(0, 10, pixels.shape)).round().clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i:04d}.jpg", quality=90)


def pillow(file: Path) -> np.ndarray:
    """All pixels, by Pillow."""
    return np.asarray(Image.open(file).convert("RGB"))


def drafted(file: Path) -> np.ndarray:
    """All pixels at the smallest scale of the format that is large enough, by Pillow."""
    picture = Image.open(file)
    picture.draft("RGB", (SIDE, SIDE))
    return np.asarray(picture)


def torchvisions(file: Path) -> np.ndarray:
    """All pixels, by torchvision."""
    data = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
    pixels: Any = decode_jpeg(data, ImageReadMode.RGB)
    return pixels.movedim(0, -1).numpy()


def decoded(file: Path) -> np.ndarray:
    """All pixels, by the library: Pillow behind checks of the file."""
    return decode_image(file.read_bytes(), str(file))


def resized(pixels: np.ndarray) -> np.ndarray:
    """Resized to SIDE x SIDE by Pillow, bicubic."""
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def resized_as_tensor(pixels: np.ndarray) -> np.ndarray:
    """The same by torchvision on a tensor of bytes."""
    tensor = torch.from_numpy(pixels).movedim(-1, 0)
    bicubic = functional.InterpolationMode.BICUBIC
    found = functional.resize(tensor, [SIDE, SIDE], interpolation=bicubic, antialias=True)
    return found.movedim(0, -1).numpy()


def milliseconds(work: Callable[[Any], object], files: Sequence[Any]) -> float:
    """CPU time per file or image, the best of three passes."""
    passes = []
    for _ in range(3):
        begun = time.process_time()
        for file in files:
            work(file)
        passes.append(time.process_time() - begun)
    return round(1e3 * min(passes) / len(files), 2)


def rate(folder: Path, workers: int) -> float:
    """Images per second of the library's loader, after its first batch."""
    dataset = open_images(FolderConfig(root=str(folder)), "all", CONTRACT)
    pieces = [range(i, i + BATCH) for i in range(0, len(dataset) // BATCH * BATCH, BATCH)]
    batches = read_ahead(dataset.read, pieces, workers, torch.device("cpu"))
    next(batches)
    begun = time.perf_counter()
    count = sum(len(batch.images) for batch in batches)
    return round(count / (time.perf_counter() - begun), 1)


def main() -> None:
    """Measure, print and write the figures."""
    options = argparse.ArgumentParser()
    options.add_argument("pictures", type=Path)
    options.add_argument("--out", type=Path)
    options.add_argument("--count", type=int, default=320)
    arguments = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_jpegs(arguments.pictures, folder, arguments.count)
        files = sorted(folder.iterdir())
        exact = {file: pillow(file).copy() for file in files[:32]}

        def largest(work: Callable[[Path], np.ndarray]) -> int | None:
            """The largest difference from Pillow's pixels; None for another size."""
            pairs = [(pixels.astype(int), work(file)) for file, pixels in exact.items()]
            if any(a.shape != b.shape for a, b in pairs):
                return None
            return int(max(abs(a - b).max() for a, b in pairs))

        record = {
            "files": len(files),
            "mean kB": round(sum(file.stat().st_size for file in files) / len(files) / 1e3),
            "decoding": {
                work.__name__: {"ms": milliseconds(work, files), "difference": largest(work)}
                for work in (pillow, drafted, torchvisions, decoded)
            },
            "resizing": {
                work.__name__: {
                    "ms": milliseconds(work, [*exact.values()]),
                    "difference": max(
                        int(abs(work(pixels).astype(int) - resized(pixels)).max())
                        for pixels in exact.values()
                    ),
                }
                for work in (resized, resized_as_tensor)
            },
            "decoding and resizing, ms": milliseconds(
                lambda file: preprocess(decoded(file), CONTRACT), files
            ),
            "images/s": {str(workers): rate(folder, workers) for workers in (0, 1, 2)},
            "machine": describe_machine("torch", "torchvision", "pillow"),
        }
    print(json.dumps(record, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
