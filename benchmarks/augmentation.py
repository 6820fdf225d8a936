"""Images a second of the training data, with each augmentation and without any, read and resident.

python benchmarks/augmentation.py --out docs/results/augmentation.json
Digits at 32 x 32 (in memory) and 64 JPEGs of 640 x 480 at 256 x 256, read in batches of 64 by one
thread: from their source, and decoded once and kept in memory (`resident: always`). The cases take
turns; medians, in seconds of CPU time.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe_machine
from PIL import Image

from imagetok import seeding
from imagetok.comparison.table import markdown_row, rule
from imagetok.data import DataConfig, DigitsConfig, FolderConfig, open_images
from imagetok.data.augmentation import AugmentConfig
from imagetok.data.augmented_images import open_augmented
from imagetok.data.resident import make_resident
from imagetok.data.substitutes import SubstitutedImages
from imagetok.images import ImageContract

BATCH = 64
PHOTOS = 64


def cases(side: int) -> dict[str, AugmentConfig | None]:
    """Each augmentation alone, and those of most trainers together."""
    larger = {"side": side * 9 // 8}
    colours = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
    keys = {
        "horizontal_flip": {"horizontal_flip": True},
        "random_crop": {"random_crop": larger},
        "random_resized_crop": {"random_resized_crop": {}},
        "random_resized_crop, flip": {"random_resized_crop": {}, "horizontal_flip": True},
        "colour_jitter without hue": {"colour_jitter": colours},
        "colour_jitter": {"colour_jitter": colours | {"hue": 0.1}},
    }
    return {"none": None} | {name: AugmentConfig.model_validate(k) for name, k in keys.items()}


def reader(
    data: DataConfig, config: AugmentConfig | None, image: ImageContract, is_resident: bool
) -> Callable[[list[int]], object]:
    """A function that reads a batch."""
    if config is None:
        source = open_images(data, "train", image)
    else:
        source = open_augmented(data, config, image, 0)
    kept = make_resident(source, torch.device("cpu"), "always" if is_resident else "never")
    images = SubstitutedImages(kept or source, 0)
    return lambda indices: images.read_at(indices, [1] * len(indices))


def rates(
    data: DataConfig, image: ImageContract, count: int, repeats: int
) -> dict[str, dict[str, float]]:
    """Images per second of CPU time by how they are read, and by case."""
    length = len(open_images(data, "train", image))
    readers = {
        (how, name): reader(data, config, image, how == "resident")
        for how in ("read", "resident")
        for name, config in cases(image.height).items()
    }
    times: dict[tuple[str, str], list[float]] = {key: [] for key in readers}
    for _ in range(repeats):
        for key, read in readers.items():
            begun = time.process_time()
            for start in range(0, count, BATCH):
                read([i % length for i in range(start, start + BATCH)])
            times[key].append(time.process_time() - begun)
    found: dict[str, dict[str, float]] = {"read": {}, "resident": {}}
    for (how, name), each in times.items():
        found[how][name] = round(count / statistics.median(each), 1)
    return found


def write_photos(folder: Path) -> None:
    """Smooth pictures whose JPEGs are as large as those of photos."""
    for i in range(PHOTOS):
        draw = seeding.generator(0, "photos", i)
        pixels = torch.randint(0, 256, (45, 60, 3), generator=draw, dtype=torch.uint8)
        picture = Image.fromarray(pixels.numpy()).resize((640, 480), Image.Resampling.BICUBIC)
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=90)
        (folder / f"{i:03d}.jpg").write_bytes(data.getvalue())


def main() -> None:
    """Measure, print two tables, and write the figures."""
    options = argparse.ArgumentParser()
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--repeats", type=int, default=5)
    arguments = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        write_photos(Path(name))
        photos = FolderConfig(root=name, holdout=0.01)
        found = {
            "digits, 32 x 32": rates(
                DigitsConfig(), ImageContract(height=32, width=32), 1024, arguments.repeats
            ),
            "JPEGs of 640 x 480, 256 x 256": rates(
                photos, ImageContract(height=256, width=256), BATCH, arguments.repeats
            ),
        }
    for title, values in found.items():
        print(f"\n{title}\n\n" + markdown_row(["augmentation", "read", "of none", "resident"]))
        print(rule(4))
        for case, rate in values["read"].items():
            share = rate / values["read"]["none"]
            kept = values["resident"][case]
            print(markdown_row([case, f"{rate:,.0f}", f"{share:.2f}x", f"{kept:,.0f}"]))
    record = {"machine": describe_machine("torch", "torchvision", "pillow"), "rates": found}
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
