"""The same images through several tokenizers, below each other, as one picture.

python benchmarks/reconstruction_rows.py DATA NAME=TOKENIZER [NAME=TOKENIZER]... --out FILE.png

The first row holds the originals: `--columns` images at equal distances in the split.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from imagetok.data import open_images, parse_spec
from imagetok.images import from_stored
from imagetok.pictures import as_pixels, enlarged, font_of, grid
from imagetok.tokenizers import Tokenizer

MARGIN, TEXT = 150, 15


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("data", help="a split of images, as for `imagetok evaluate`")
    parser.add_argument("tokenizers", nargs="+", metavar="NAME=TOKENIZER")
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--scale", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows: dict[str, np.ndarray] = {}
    for named in arguments.tokenizers:
        name, _, source = named.partition("=")
        model = Tokenizer.from_pretrained(source)
        images = open_images(*parse_spec(arguments.data), model.image)
        step = len(images) // arguments.columns
        chosen = range(step // 2, step * arguments.columns, step)
        pixels = from_stored(images.read(chosen).images, model.image)
        rows.setdefault("original", as_pixels(pixels))
        rows[name] = as_pixels(model.reconstruct(pixels).clamp(0, 1))
    shown = enlarged(grid(np.concatenate(list(rows.values())), arguments.columns), arguments.scale)
    picture = Image.new("RGB", (MARGIN + shown.width, shown.height), "white")
    picture.paste(shown, (MARGIN, 0))
    draw = ImageDraw.Draw(picture)
    for row, name in enumerate(rows):
        middle = MARGIN - 10, (row + 0.5) * shown.height / len(rows)
        draw.text(middle, name, fill="black", font=font_of(TEXT), anchor="rm")
    picture.save(arguments.out)


if __name__ == "__main__":
    main()
