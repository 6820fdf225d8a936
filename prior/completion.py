"""Finishing images from their upper code rows."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from imagetok.codes.decode import decode_in_batches, save_images
from imagetok.data import open_image, prepare
from imagetok.durable import write_json
from imagetok.errors import ConfigError
from imagetok.images import Images, from_stored
from imagetok.pictures import as_pixels, coloured, heat, save_grid
from imagetok.processes import device_of, process_state
from imagetok.tokenizers import Tokenizer
from prior import Prior
from prior.generation import Drawing, record_of
from prior.sequence import flatten_codes, kept_positions

RECORD, PICTURE, LIKELIHOOD = "completions.json", "completions.png", "likelihood.png"
_GREY = 127


class Completed(NamedTuple):
    """An image and its completions; what has 1 + n entries begins with the image's own codes."""

    original: Images
    """As the tokenizer reads it."""
    images: Images
    """(1 + n, ...): of its codes, of its completions'."""
    log_prob: Tensor
    """(1 + n,) natural logarithms, at temperature 1 and without guidance."""
    surprise: Tensor
    """(1 + n, H, W) in [0, 1]: bits at each pixel, as a share of a uniform guess's."""


def complete_images(
    prior: Prior,
    tokenizer: Tokenizer,
    files: list[Path],
    out: Path,
    n: int,
    keep_rows: int,
    drawing: Drawing,
) -> None:
    """Complete each image n times; completion m depends on (seed, m, the image, settings) only.

    out: gets NNNNNN.png (n for each image in turn), completions.png (a row for each image: itself,
    what its kept codes give back, its completions), likelihood.png (below each, how surprising
    every code is) and at last completions.json. Raises ConfigError for bad settings and when `out`
    holds anything, InputError for files that are no images.
    """
    if process_state().num_processes > 1:
        raise ConfigError("complete runs in one process; start it without a launcher")
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out}: not empty; choose another --out")
    drawing = {**drawing, "label": drawing.get("label") or "none"}
    record = record_of(prior, tokenizer, n * len(files), drawing)
    done = [
        _complete(prior, tokenizer, _read(tokenizer, file), n, keep_rows, drawing) for file in files
    ]
    for i, one in enumerate(done):
        save_images(one.images[1:], out, range(i * n, (i + 1) * n))
    shown = round(tokenizer.image.height * keep_rows / min(h for h, _ in prior.config.grids))
    rows = [_row(one, shown) for one in done]
    scale = max(1, 64 // tokenizer.image.height)
    save_grid(np.concatenate([above for above, _ in rows]), out / PICTURE, n + 2, scale)
    both = [np.broadcast_to(part, (n + 2, 3, *part.shape[2:])) for row in rows for part in row]
    save_grid(np.concatenate(both), out / LIKELIHOOD, n + 2, scale)
    files_and_odds = {
        "images": [str(file) for file in files],
        "completions": n,
        "keep_rows": keep_rows,
        "log_prob": [[round(value, 3) for value in one.log_prob.tolist()] for one in done],
    }
    write_json(out / RECORD, record.model_dump(mode="json") | files_and_odds)


def _read(tokenizer: Tokenizer, file: Path) -> Images:
    """One image file as the tokenizer takes it."""
    stored = prepare(open_image(file, tokenizer.image.mode == "labels"), tokenizer.image)
    return from_stored(stored[None], tokenizer.image)


def _complete(
    prior: Prior, tokenizer: Tokenizer, image: Images, n: int, keep_rows: int, drawing: Drawing
) -> Completed:
    # Encoded alone, so that an image's codes do not depend on what is completed beside it.
    codes = tokenizer.encode(image.to(device_of(tokenizer)))
    completed = prior.sample(n, given=codes, keep_rows=keep_rows, **drawing)
    kept = torch.tensor(kept_positions(prior.config.grids, keep_rows), device=codes[0].device)
    before, after = flatten_codes(codes), flatten_codes(completed)
    assert torch.equal(before[:, kept].expand(n, -1), after[:, kept]), "the given codes are kept"
    both = tuple(torch.cat(levels) for levels in zip(codes, completed, strict=True))
    cycle = prior.labels_for(drawing.get("label"))
    # The image itself is judged as the first completion is.
    labels = torch.tensor([cycle[m % len(cycle)] for m in (0, *range(n))], device=before.device)
    maps = prior.log_prob_map(both, labels)
    total = torch.cat([level.flatten(1) for level in maps], dim=1).sum(dim=1)
    size = (tokenizer.image.height, tokenizer.image.width)
    surprise = _surprise(prior, maps, size).cpu()
    return Completed(image, decode_in_batches(tokenizer, both), total.cpu(), surprise)


def _surprise(prior: Prior, maps: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
    """Bits of all levels spread over the pixels that each code stands for; 1 is log2 K a code."""
    bits = torch.zeros(len(maps[0]), *size, device=maps[0].device)
    uniform = 0.0
    for level, k in zip(maps, prior.config.num_codes, strict=True):
        per_pixel = level[0].numel() / math.prod(size)
        spread = interpolate(-level[:, None].float(), size=size, mode="nearest-exact")[:, 0]
        bits += spread * per_pixel / math.log(2)
        uniform += math.log2(max(k, 2)) * per_pixel
    return (bits / uniform).clamp(0, 1)


def _row(one: Completed, shown: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of an image, of what is kept of it and of its completions; the heat below them."""
    original, pixels = as_pixels(coloured(one.original)), as_pixels(coloured(one.images))
    surprise = heat(one.surprise)
    kept = pixels[:1].copy()
    kept[:, :, shown:] = _GREY
    nothing = np.full_like(surprise[:1], 255)
    return (
        np.concatenate([original, kept, pixels[1:]]),
        np.concatenate([surprise[:1], nothing, surprise[1:]]),
    )


def with_kept(pixels: np.ndarray, share: float) -> np.ndarray:
    """An image and its completions, with what is kept of the image's height after the first."""
    kept = pixels[:1].copy()
    kept[:, :, round(pixels.shape[2] * share) :] = _GREY
    return np.concatenate([pixels[:1], kept, pixels[1:]])
