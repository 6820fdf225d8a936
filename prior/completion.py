"""Finishing images from their upper code rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from imagetok.codes.decode import decode_in_batches, save_images
from imagetok.data import open_image, preprocess
from imagetok.data.inputs import open_inputs
from imagetok.durable import write_json
from imagetok.errors import ConfigError, InputError
from imagetok.images import Images, from_stored
from imagetok.pictures import as_pixels, as_rgb, grid, heat_map, save_grid
from imagetok.processes import device_of, process_state
from imagetok.progress import ProgressBar, progress_shown
from imagetok.results import Result
from imagetok.tokenizers import Tokenizer
from prior.base import Prior
from prior.generation import Label
from prior.loading import open_pair
from prior.sample_folder import record_of
from prior.sampling_params import SamplingParams, sampling_params
from prior.sequence import Codes, flatten_codes, kept_positions

RECORD, PICTURE, LIKELIHOOD = "completions.json", "completions.png", "likelihood.png"
_GREY = 127


class Completed(NamedTuple):
    """An image and its completions; what has 1 + n entries begins with the image's own codes."""

    original: Images
    """(1, ...): as the tokenizer reads it."""
    images: Images
    """(1 + n, ...): of its codes, of its completions'."""
    codes: Codes
    """(1 + n, h, w) a level."""
    log_prob: Tensor
    """(1 + n,) natural logarithms, at temperature 1 and without guidance."""
    surprise: Tensor
    """(1 + n, H, W) in [0, 1]: bits at each pixel, as a share of a uniform guess's."""


@dataclass(frozen=True, repr=False, eq=False)
class Completions(Result):
    """Images finished by a prior."""

    names: tuple[str, ...]
    """Files, or the numbers of images that were given without one."""
    keep_rows: int
    completed: tuple[Completed, ...]
    """For each image in turn."""
    params: SamplingParams
    folder: Path | None
    """Where they lie; None: in memory only."""
    shown_rows: int
    """Rows of pixels that the kept codes stand for, about."""

    @property
    def images(self) -> Tensor:
        """(N, n, ...): the n completions of each of N images, as the tokenizer decodes them."""
        return torch.stack([one.images[1:] for one in self.completed])

    @property
    def log_prob(self) -> Tensor:
        """(N, 1 + n): of each image's own codes, and of its completions."""
        return torch.stack([one.log_prob for one in self.completed])

    def title(self) -> str:
        count = len(self.completed[0].images) - 1
        place = "in memory" if self.folder is None else f"in {self.folder}"
        return f"{count} completions of {len(self.names)} image(s), {place}"

    def rows(self) -> dict[str, object]:
        """The log-probability of each image's own codes, and the completions' mean."""
        return {
            name: f"log p {float(one.log_prob[0]):.1f}, completions {_mean(one.log_prob[1:]):.1f}"
            for name, one in zip(self.names, self.completed, strict=True)
        }

    def pictures(self) -> dict[str, np.ndarray]:
        """Completions beside what is kept, and how surprising every code is."""
        columns = len(self.completed[0].images) + 1
        whole, with_heat = self.rows_of_pictures()
        return {
            "image, what is kept, completions": np.array(grid(whole, columns)),
            "surprise of every code (bright: unexpected)": np.array(grid(with_heat, columns)),
        }

    def rows_of_pictures(self) -> tuple[np.ndarray, np.ndarray]:
        """Images for grids of n + 2 columns: completions, and these with the heat below each."""
        rows = [_row(one, self.shown_rows) for one in self.completed]
        columns = len(rows[0][0])
        both = [
            np.broadcast_to(part, (columns, 3, *part.shape[2:])) for row in rows for part in row
        ]
        return np.concatenate([above for above, _ in rows]), np.concatenate(both)


def complete(
    prior: Prior | Path | str,
    images: Path | str | Image.Image | np.ndarray | Tensor | Sequence[Any],
    *,
    keep_rows: int,
    n: int = 4,
    tokenizer: Tokenizer | Path | str | None = None,
    out: Path | str | None = None,
    label: Label = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    guidance: float = 1.0,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Completions:
    """Finish images n times each from their upper code rows, which are kept exactly.

    images: one or several files or PIL images, or arrays or a tensor as `imagetok.encode` takes
    them. keep_rows: upper rows of codes to keep, of the coarsest map. tokenizer: None is the one
    embedded in the prior. label to seed: see `Prior.sample`; without a label, no class is given.
    Completion m depends on (seed, m, the image, the parameters) only. out: an empty folder for
    NNNNNN.png (n for each image in turn), completions.png, likelihood.png and completions.json;
    None keeps them in memory.

    Raises ConfigError for parameters out of range and when `out` holds anything, InputError for
    what is no image.

    >>> prior.complete("runs/digits-gpt/prior", "four.png", keep_rows=2).images
    """
    if process_state().num_processes > 1:
        raise ConfigError("complete runs in one process; start it without a launcher")
    folder = None if out is None else Path(out)
    if folder is not None and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: not empty; choose another --out")
    model, own = open_pair(prior, tokenizer, device)
    params = sampling_params(
        temperature=temperature, top_k=top_k, top_p=top_p, greedy=greedy, guidance=guidance,
        seed=seed,
    )  # fmt: skip
    opened = _opened(images, own)
    label = label or "none"
    record = record_of(model, own, n * len(opened), label, params)
    with progress_shown(progress), ProgressBar("completing", len(opened)) as bar:
        done: list[Completed] = []
        for image in opened.values():
            done.append(complete_one(model, own, image, n, keep_rows, label, params))
            bar.update(len(done))
    shown = round(own.image.height * keep_rows / min(h for h, _ in model.config.grids))
    found = Completions(tuple(opened), keep_rows, tuple(done), params, folder, shown)
    if folder is not None:
        _save(found, folder, record.model_dump(mode="json"), own.image.height)
    return found


def complete_one(
    prior: Prior,
    tokenizer: Tokenizer,
    image: Images,
    n: int,
    keep_rows: int,
    label: Label,
    params: SamplingParams,
) -> Completed:
    """n completions of one image (1, ...), with the odds of all."""
    # Encoded alone, so that an image's codes do not depend on what is completed beside it.
    codes = tokenizer.encode(image.to(device_of(tokenizer)))
    completed = prior.sample(
        n, given=codes, keep_rows=keep_rows, label=label, **params.model_dump()
    )
    kept = torch.tensor(kept_positions(prior.config.grids, keep_rows), device=codes[0].device)
    before, after = flatten_codes(codes), flatten_codes(completed)
    assert torch.equal(before[:, kept].expand(n, -1), after[:, kept]), "the given codes are kept"
    both = tuple(torch.cat(levels) for levels in zip(codes, completed, strict=True))
    cycle = prior.labels_for(label)
    # The image itself is judged as the first completion is.
    labels = torch.tensor([cycle[m % len(cycle)] for m in (0, *range(n))], device=before.device)
    maps = prior.log_prob_map(both, labels)
    total = torch.cat([level.flatten(1) for level in maps], dim=1).sum(dim=1)
    size = (tokenizer.image.height, tokenizer.image.width)
    surprise = _surprise(prior, maps, size).cpu()
    return Completed(image, decode_in_batches(tokenizer, both), both, total.cpu(), surprise)


def _opened(images: Any, tokenizer: Tokenizer) -> dict[str, Images]:
    """Each image (1, ...) as the tokenizer takes it, by its file or number."""
    contract = tokenizer.image
    several = [images] if isinstance(images, Path | str | Image.Image) else images
    is_list = isinstance(several, list | tuple)
    files = [one for one in several if isinstance(one, Path | str)] if is_list else []
    if files:
        if len(files) < len(several):
            raise InputError("expected files, or pictures in memory, found both")
        as_labels = contract.mode == "labels"
        stored = [preprocess(open_image(file, as_labels), contract) for file in files]
        names = [str(file) for file in files]
    else:
        dataset = open_inputs(several, contract).dataset
        batch = dataset.read(list(range(len(dataset))))
        stored = list(batch.images)
        names = [f"image {i}" for i in range(len(stored))]
    if not stored:
        raise InputError("expected at least one image, found none")
    if len(set(names)) < len(names):
        names = [f"{name} ({i})" for i, name in enumerate(names)]
    return {name: from_stored(one[None], contract) for name, one in zip(names, stored, strict=True)}


def _save(found: Completions, out: Path, record: dict[str, Any], height: int) -> None:
    """The completions one by one, the two pictures, and at last what made them."""
    n = len(found.completed[0].images) - 1
    for i, one in enumerate(found.completed):
        save_images(one.images[1:], out, range(i * n, (i + 1) * n))
    scale = max(1, 64 // height)
    whole, with_heat = found.rows_of_pictures()
    save_grid(whole, out / PICTURE, n + 2, scale)
    save_grid(with_heat, out / LIKELIHOOD, n + 2, scale)
    files_and_odds = {
        "images": list(found.names),
        "completions": n,
        "keep_rows": found.keep_rows,
        "log_prob": [
            [round(value, 3) for value in one.log_prob.tolist()] for one in found.completed
        ],
    }
    write_json(out / RECORD, record | files_and_odds)


def _mean(values: Tensor) -> float:
    return float(values.mean())


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
    original, pixels = as_pixels(as_rgb(one.original)), as_pixels(as_rgb(one.images))
    surprise = heat_map(one.surprise)
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
