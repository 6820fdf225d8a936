"""`prior.complete`: completing images from their upper rows of codes."""

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
from imagetok.io.output_paths import new_folder
from imagetok.pictures import as_pixels, as_rgb, grid, heat_map, save_grid
from imagetok.processes import device_of, process_state
from imagetok.progress import ProgressBar, progress_shown
from imagetok.results import Result
from imagetok.tokenizers import Tokenizer
from prior.base import Label, Prior
from prior.loading import open_pair
from prior.sample_folder import record_of
from prior.sampling_params import SamplingParams, sampling_params
from prior.sequence import Codes, flatten_codes, kept_positions
from prior.stepper import NO_LABEL

RECORD, PICTURE, LIKELIHOOD = "completions.json", "completions.png", "likelihood.png"
_GREY = 127


class Completed(NamedTuple):
    """An image and n completions; entry 0 of tensors with 1 + n entries is the image itself."""

    original: Images
    """The image as the tokenizer reads it, (1, C, H, W) or (1, H, W)."""
    images: Images
    """(1 + n, ...): its reconstruction, then its completions."""
    codes: Codes
    """Codes (1 + n, h, w) per level."""
    log_prob: Tensor
    """ln p of the codes, (1 + n,), at temperature 1 and without guidance."""
    surprise: Tensor
    """(1 + n, H, W) in [0, 1]: bits at each pixel relative to a uniform distribution."""


@dataclass(frozen=True, repr=False, eq=False)
class Completions(Result):
    """The result of `complete`: images completed by a prior."""

    names: tuple[str, ...]
    """Paths of the images, or `image N` for images without a path."""
    keep_rows: int
    completed: tuple[Completed, ...]
    """One entry per image."""
    params: SamplingParams
    folder: Path | None
    """Folder of the files; None if the completions are in memory only."""
    shown_rows: int
    """Approximate number of pixel rows covered by the kept codes."""

    @property
    def images(self) -> Tensor:
        """The decoded completions, (N, n, ...): n for each of N images."""
        return torch.stack([one.images[1:] for one in self.completed])

    @property
    def log_prob(self) -> Tensor:
        """ln p, (N, 1 + n): of each image's own codes, then of its completions."""
        return torch.stack([one.log_prob for one in self.completed])

    def title(self) -> str:
        count = len(self.completed[0].images) - 1
        place = "in memory" if self.folder is None else f"in {self.folder}"
        return f"{count} completions of {len(self.names)} image(s), {place}"

    def rows(self) -> dict[str, object]:
        """Return ln p of each image's own codes, and the mean over its completions."""
        return {
            name: f"ln p {float(one.log_prob[0]):.1f}, completions {_mean(one.log_prob[1:]):.1f}"
            for name, one in zip(self.names, self.completed, strict=True)
        }

    def pictures(self) -> dict[str, np.ndarray]:
        """Return pictures of the completions, and maps of the negative log-likelihood."""
        columns = len(self.completed[0].images) + 1
        whole, with_heat = self.rows_of_pictures()
        return {
            "image, kept part, completions": np.array(grid(whole, columns)),
            "negative log-likelihood of every code (bright: unlikely)": np.array(
                grid(with_heat, columns)
            ),
        }

    def rows_of_pictures(self) -> tuple[np.ndarray, np.ndarray]:
        """Return images for grids of n + 2 columns: completions, and these with maps below them."""
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
    """Complete images n times each from their upper rows of codes, which are kept exactly.

    images: one or several files or PIL images, or arrays or a tensor as accepted by
    `imagetok.encode`. keep_rows: upper rows of codes to keep, counted at the coarsest level.
    tokenizer: None is the one embedded in the prior. label to seed: see `Prior.sample`; without a
    label, the prior is sampled without a class. Completion m depends only on the seed, m, the
    image and the parameters. out: an empty folder for NNNNNN.png (n per image), completions.png,
    likelihood.png and completions.json; None keeps them in memory.

    Raises ConfigError for parameters out of range and if `out` is not empty, InputError for an
    input that is no image.

    >>> prior.complete("runs/digits-gpt/prior", "four.png", keep_rows=2).images
    """
    if process_state().num_processes > 1:
        raise ConfigError("complete runs in a single process; run it without a launcher")
    folder = None if out is None else new_folder(out)
    model, own = open_pair(prior, tokenizer, device)
    params = sampling_params(
        temperature=temperature, top_k=top_k, top_p=top_p, greedy=greedy, guidance=guidance,
        seed=seed,
    )  # fmt: skip
    opened = _opened(images, own)
    label = NO_LABEL if label is None else label
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
    """Complete one image (1, ...) n times, and compute the log-likelihoods."""
    # Encoded alone, so that an image's codes do not depend on the other images.
    codes = tokenizer.encode(image.to(device_of(tokenizer)))
    completed = prior.sample(
        n, given=codes, keep_rows=keep_rows, label=label, **params.model_dump()
    )
    kept = torch.tensor(kept_positions(prior.config.grids, keep_rows), device=codes[0].device)
    before, after = flatten_codes(codes), flatten_codes(completed)
    assert torch.equal(before[:, kept].expand(n, -1), after[:, kept]), "the given codes are kept"
    both = tuple(torch.cat(levels) for levels in zip(codes, completed, strict=True))
    cycle = prior.labels_for(label)
    # The likelihood of the image itself is computed with the label of the first completion.
    labels = torch.tensor([cycle[m % len(cycle)] for m in (0, *range(n))], device=before.device)
    maps = prior.log_prob_map(both, labels)
    total = torch.cat([level.flatten(1) for level in maps], dim=1).sum(dim=1)
    size = (tokenizer.image.height, tokenizer.image.width)
    surprise = _surprise(prior, maps, size).cpu()
    return Completed(image, decode_in_batches(tokenizer, both), both, total.cpu(), surprise)


def _opened(images: Any, tokenizer: Tokenizer) -> dict[str, Images]:
    """Return each image (1, ...) as the tokenizer's input, by its path or number."""
    contract = tokenizer.image
    several = [images] if isinstance(images, Path | str | Image.Image) else images
    is_list = isinstance(several, list | tuple)
    files = [one for one in several if isinstance(one, Path | str)] if is_list else []
    if files:
        if len(files) < len(several):
            raise InputError("expected either files or images in memory, found both")
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
    """Save the completions, then the two pictures, and finally the record."""
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
    """Spread the bits of all levels over the pixels of each code; 1 is log2 K bits per code."""
    bits = torch.zeros(len(maps[0]), *size, device=maps[0].device)
    uniform = 0.0
    for level, k in zip(maps, prior.config.num_codes, strict=True):
        per_pixel = level[0].numel() / math.prod(size)
        spread = interpolate(-level[:, None].float(), size=size, mode="nearest-exact")[:, 0]
        bits += spread * per_pixel / math.log(2)
        uniform += math.log2(max(k, 2)) * per_pixel
    return (bits / uniform).clamp(0, 1)


def _row(one: Completed, shown: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures of an image, its kept part and its completions; and maps below them."""
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
    """Insert a picture of the kept part (a share of the height) after the first picture."""
    kept = pixels[:1].copy()
    kept[:, :, round(pixels.shape[2] * share) :] = _GREY
    return np.concatenate([pixels[:1], kept, pixels[1:]])
