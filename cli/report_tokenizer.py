"""What a trained tokenizer does to images, and what its codes look like. No click here."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cli.report_runs import RunFolder
from imagetok import seeding
from imagetok.data import ImageDataset
from imagetok.evaluation import codebook_use
from imagetok.evaluation.patches import (
    Encoded,
    code_patches,
    codes_to_show,
    cut_patch,
    encode_spread,
    spread,
)
from imagetok.images import Images, clamp_pixels, from_stored
from imagetok.processes import device_of
from imagetok.report import Block, Figure, Pictures, Section, Text, overlay, usage_histogram
from imagetok.report.pictures import as_pixels, coloured, png_bytes
from imagetok.tokenizers import Tokenizer

IMAGES = 16
"""Shown before and after."""
COUNTED = 2000
"""Images whose codes are counted at most."""
COMMON, RARE, PATCHES = 16, 8, 7
"""Codes shown of the most used and of the rarest, and places of each."""
_PER_ROW = 8
_MAPS = {
    "uncertainty": "the Dirichlet uncertainty K / S",
    "entropy": "the entropy of the code probabilities in nats",
}
_WIDEST = 640  # pixels of a stored picture that is shown


def tokenizer_sections(runs: Sequence[RunFolder]) -> list[Section]:
    """Of every tokenizer run: before and after, where it is unsure, its codes.

    Runs on the same images are shown side by side.
    """
    finished = [run for run in runs if run.model is not None and run.held_out.dataset is not None]
    sections = [_side_by_side(group) for group in _alike(finished)]
    sections += [_from_training(run, len(runs) > 1) for run in runs if run not in finished]
    for run in finished:
        if run.tokenizer is not None and run.held_out.dataset is not None:
            name = f" of {run.name}" if len(runs) > 1 else ""
            encoded = encode_spread(run.tokenizer, run.held_out.dataset, COUNTED)
            sections += _unsure(run.tokenizer, run.held_out.dataset, name)
            sections.append(_codes(run.tokenizer, run.held_out.dataset, encoded, name))
    return sections


def _alike(runs: Sequence[RunFolder]) -> list[list[RunFolder]]:
    """Runs in groups of the same images, in the same form."""
    groups: dict[str, list[RunFolder]] = {}
    for run in runs:
        assert run.held_out.dataset is not None
        key = f"{run.held_out.contract!r} {run.held_out.dataset.identity()}"
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _shown(dataset: ImageDataset, count: int = IMAGES) -> Images:
    stored = dataset.read(spread(len(dataset), count)).images
    return from_stored(stored, dataset.contract)


def _reconstructed(run: RunFolder, images: Images) -> Tensor:
    """What comes back, as one can see it."""
    assert run.model is not None
    draw = seeding.generator(0, "pictures", device=run.device)
    x_hat = run.model.reconstruct(images.to(run.device), generator=draw).nan_to_num().cpu()
    return coloured(clamp_pixels(x_hat))


def _side_by_side(runs: Sequence[RunFolder]) -> Section:
    """Held-out images, and below each row what every run makes of it."""
    held_out = runs[0].held_out
    assert held_out.dataset is not None
    images = _shown(held_out.dataset)
    layers = [as_pixels(coloured(images)), *(as_pixels(_reconstructed(r, images)) for r in runs)]
    labels = ["original", *(run.name for run in runs)] if len(runs) > 1 else ["original", "after"]
    parts, row_labels = [], []
    for start in range(0, len(images), _PER_ROW):
        rows = [layer[start : start + _PER_ROW] for layer in layers]
        missing = _PER_ROW - len(rows[0]) if len(images) > _PER_ROW else 0
        blank = np.full((missing, *rows[0].shape[1:]), 255, dtype=np.uint8)
        parts += [np.concatenate([row, blank]) for row in rows]
        row_labels += labels
    told = [
        f"{run.name}: {kept}" if len(runs) > 1 else kept for run in runs for kept in [_kept(run)]
    ]
    blocks: list[Block] = [
        Text(f"Held-out images ({held_out.source}), and below each what comes back after "
             f"{'; '.join(told)}."),
        Pictures(np.concatenate(parts), min(_PER_ROW, len(images)), row_labels),
    ]  # fmt: skip
    for run in runs:
        blocks += _over_training(run, len(runs) > 1)
    return Section("Before and after", blocks)


def _kept(run: RunFolder) -> str:
    """What is left of an image."""
    if run.tokenizer is None:
        return "a continuous code"
    levels = zip(run.tokenizer.grids, run.tokenizer.num_codes, strict=True)
    return " and ".join(f"{h} x {w} codes of {k}" for (h, w), k in levels)


def _from_training(run: RunFolder, is_named: bool) -> Section:
    """What training left, where the run is not finished or its images are elsewhere."""
    why = (
        f"The run has not finished; it stands at step {run.step:,}."
        if run.model is None
        else f"The held-out images cannot be opened here: {run.held_out.reason}"
    )
    title = f"Before and after, {run.name}" if is_named else "Before and after"
    return Section(title, [Text(why), *_over_training(run, is_named)])


def _over_training(run: RunFolder, is_named: bool) -> Iterator[Figure]:
    """The pictures of the first, a middle and the last evaluation."""
    files = sorted((run.path / "pictures").glob("step-*.png"))
    for file in dict.fromkeys(files[i] for i in (0, len(files) // 2, -1) if files):
        with Image.open(file) as opened:
            picture = opened.convert("RGB") if opened.mode == "P" else opened.copy()
        if picture.width > _WIDEST:
            height = max(1, picture.height * _WIDEST // picture.width)
            picture = picture.resize((_WIDEST, height))
        step = int(file.stem.removeprefix("step-"))
        told = f"At step {step:,}: originals in odd rows, what came back below them."
        named = f"{run.name}. {told}" if is_named else told
        yield Figure(png_bytes(picture), f"Images and reconstructions at step {step:,}", named)


def _unsure(tokenizer: Tokenizer, dataset: ImageDataset, name: str) -> list[Section]:
    """Evidence, or else entropy, laid over images; nothing where the quantizer tells of neither."""
    device = device_of(tokenizer)
    images = _shown(dataset, _PER_ROW)
    draw = seeding.generator(0, "pictures", device=device)
    _, maps = tokenizer.encode_with_certainty(images.to(device), generator=draw)
    measure = next((m for m in _MAPS if any(key.startswith(m) for key in maps)), None)
    if measure is None:
        return []
    found = {key: values.cpu() for key, values in maps.items() if key.startswith(measure)}
    seen = coloured(images)
    rows, labels, ends = [_as_rgb(seen)], ["original"], []
    for key, values in found.items():
        level = key.removeprefix(measure).replace("_level", "level ")
        scale = float(values.max())
        rows.append(overlay(seen, values / max(scale, 1e-12)))
        labels.append(level or measure)
        ends.append(f"{level} {scale:.3g}".strip())
    text = (
        f"Brightness is {_MAPS[measure]} at every code: dark where the encoder is sure, pale "
        f"yellow at the largest value shown ({', '.join(ends)})."
    )
    picture = Pictures(np.concatenate(rows), len(seen), labels)
    return [Section(f"Where it is unsure{name}", [Text(text), picture])]


def _as_rgb(images: Tensor) -> np.ndarray:
    pixels = as_pixels(images)
    return np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:]))


def _codes(tokenizer: Tokenizer, dataset: ImageDataset, encoded: Encoded, name: str) -> Section:
    """How often each code is used, and what the common and the rare ones stand for."""
    blocks: list[Block] = []
    levels = len(tokenizer.num_codes)
    for level, num_codes in enumerate(tokenizer.num_codes):
        codes, counts = codes_to_show(encoded.codes[level], num_codes, COMMON, RARE)
        use = codebook_use(counts)
        which = f"Level {level}: " if levels > 1 else ""
        caption = (
            f"{which}how often each code occurs in {len(encoded.indices):,} held-out images: "
            f"{use.codes_used:,} of {num_codes:,} codes are used, perplexity {use.perplexity:.1f}."
        )
        blocks.append(Figure(usage_histogram(counts), f"{which}sorted usage of the codes", caption))
        blocks.append(_patches(tokenizer, dataset, encoded, level, codes, counts))
    return Section(f"The codes{name}", blocks)


def _patches(
    tokenizer: Tokenizer,
    dataset: ImageDataset,
    encoded: Encoded,
    level: int,
    codes: Sequence[int],
    counts: Tensor,
) -> Pictures:
    rows = []
    painted = painted_alone(tokenizer, codes) if len(tokenizer.num_codes) == 1 else None
    for i, code in enumerate(codes):
        found = [coloured(p) for p in code_patches(dataset, encoded, level, code, PATCHES)]
        row = [
            as_pixels(p) for p in ([coloured(painted[i : i + 1])] if painted is not None else [])
        ]
        row += [as_pixels(p) for p in found]
        blank = np.full((PATCHES - len(found), *row[0].shape[1:]), 255, dtype=np.uint8)
        rows.append(np.concatenate([*row, blank]))
    headers = ["decoded", "found", *[""] * (PATCHES - 1)]
    told = "First what the decoder paints where a code has only copies of itself around it, then p"
    caption = (
        f"{told if painted is not None else 'P'}laces where the code was found, with as much again "
        f"around them. The {min(len(codes), COMMON)} most used codes"
        + (f", then {len(codes) - COMMON} of the rarest." if len(codes) > COMMON else ".")
    )
    return Pictures(
        np.concatenate(rows),
        PATCHES + (painted is not None),
        [f"code {code}, {int(counts[code]):,} x" for code in codes],
        headers if painted is not None else headers[1:],
        caption,
    )


@torch.no_grad()
def painted_alone(tokenizer: Tokenizer, codes: Sequence[int]) -> Images:
    """The middle of what each code decodes to when it fills the grid; one level only."""
    (grid,) = tokenizer.grids
    device = device_of(tokenizer)
    full = torch.tensor(codes, device=device).view(-1, 1, 1).expand(-1, *grid).contiguous()
    return cut_patch(tokenizer.decode((full,)).cpu(), (grid[0] // 2, grid[1] // 2), grid)
