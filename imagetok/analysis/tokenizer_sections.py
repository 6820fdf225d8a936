"""What a trained tokenizer does to images, and what its codes look like."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imagetok import seeding
from imagetok.analysis.runs import TokenizerRunFolder
from imagetok.data import ImageDataset, open_image
from imagetok.errors import InputError
from imagetok.evaluation.code_patches import (
    EncodedImageCodes,
    code_patches,
    codes_to_show,
    cut_patch,
    encode_spread,
    spread,
)
from imagetok.evaluation.uncertainty import uncertainty_map
from imagetok.images import ImageContract, Images, clamp_pixels, from_stored
from imagetok.pictures import as_pixels, as_rgb, cut_grid, overlay
from imagetok.processes import device_of
from imagetok.quantizers import codebook_use
from imagetok.reporting import Block, Figure, Pictures, ReportSection, Text, usage_histogram
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


def tokenizer_sections(runs: Sequence[TokenizerRunFolder]) -> list[ReportSection]:
    """Of every tokenizer run: before and after, where it is unsure, its codes.

    Runs on the same images are shown side by side.
    """
    finished = [run for run in runs if run.model is not None and run.held_out.dataset is not None]
    others = [run for run in runs if run not in finished]
    groups = _alike(finished)
    is_alone = len(groups) + len(others) == 1
    sections = [_side_by_side(group, is_alone) for group in groups]
    sections += [_from_training(run, is_alone) for run in others]
    for run in finished:
        if run.tokenizer is not None and run.held_out.dataset is not None:
            name = f" of {run.name}" if len(runs) > 1 else ""
            encoded = encode_spread(run.tokenizer, run.held_out.dataset, COUNTED)
            sections += _uncertainty_maps(run.tokenizer, run.held_out.dataset, name)
            sections.append(_codes(run.tokenizer, run.held_out.dataset, encoded, name))
    return sections


def _alike(runs: Sequence[TokenizerRunFolder]) -> list[list[TokenizerRunFolder]]:
    """Runs in groups of the same images, in the same form."""
    groups: dict[str, list[TokenizerRunFolder]] = {}
    for run in runs:
        assert run.held_out.dataset is not None
        key = f"{run.held_out.contract!r} {run.held_out.dataset.identity()}"
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _shown(dataset: ImageDataset, count: int = IMAGES) -> Images:
    stored = dataset.read(spread(len(dataset), count)).images
    return from_stored(stored, dataset.contract)


def _reconstructed(run: TokenizerRunFolder, images: Images) -> Tensor:
    """What comes back, as one can see it."""
    assert run.model is not None
    draw = seeding.generator(0, "pictures", device=run.device)
    x_hat = run.model.reconstruct(images.to(run.device), generator=draw).nan_to_num().cpu()
    return as_rgb(clamp_pixels(x_hat))


def _before_and_after(
    runs: Sequence[TokenizerRunFolder], is_alone: bool, blocks: list[Block]
) -> ReportSection:
    """is_alone: the only section of that title, which needs no names."""
    names = "" if is_alone else f" of {', '.join(run.name for run in runs)}"
    return ReportSection(f"Before and after{names}", blocks)


def _side_by_side(runs: Sequence[TokenizerRunFolder], is_alone: bool) -> ReportSection:
    """Held-out images, and below each row what every run makes of it."""
    held_out = runs[0].held_out
    assert held_out.dataset is not None
    images = _shown(held_out.dataset)
    layers = [as_pixels(as_rgb(images)), *(as_pixels(_reconstructed(r, images)) for r in runs)]
    labels = ["original", *(run.name for run in runs)] if len(runs) > 1 else ["original", "after"]
    parts, row_labels = [], []
    for start in range(0, len(images), _PER_ROW):
        rows = [layer[start : start + _PER_ROW] for layer in layers]
        missing = _PER_ROW - len(rows[0]) if len(images) > _PER_ROW else 0
        blank = np.full((missing, *rows[0].shape[1:]), 255, dtype=np.uint8)
        parts += [np.concatenate([row, blank]) for row in rows]
        row_labels += labels
    summary = [
        f"{run.name}: {kept}" if len(runs) > 1 else kept for run in runs for kept in [_kept(run)]
    ]
    blocks: list[Block] = [
        Text(f"Held-out images ({held_out.source}), and below each what comes back after "
             f"{'; '.join(summary)}."),
        Pictures(np.concatenate(parts), min(_PER_ROW, len(images)), row_labels),
    ]  # fmt: skip
    for run in runs:
        blocks += _over_training(run, len(runs) > 1)
    return _before_and_after(runs, is_alone, blocks)


def _kept(run: TokenizerRunFolder) -> str:
    """What is left of an image."""
    if run.tokenizer is None:
        return "a continuous code"
    levels = zip(run.tokenizer.grids, run.tokenizer.num_codes, strict=True)
    return " and ".join(f"{h} x {w} codes of {k}" for (h, w), k in levels)


def _from_training(run: TokenizerRunFolder, is_alone: bool) -> ReportSection:
    """What training left, where the run is not finished or its images are elsewhere."""
    why = (
        f"The run has not finished; it stands at step {run.step:,}."
        if run.model is None
        else f"The held-out images cannot be opened here: {run.held_out.reason}"
    )
    return _before_and_after([run], is_alone, [Text(why), *_over_training(run, not is_alone)])


def _over_training(run: TokenizerRunFolder, is_named: bool) -> list[Block]:
    """What came back at the first, a middle and the last evaluation, as training drew it."""
    files = sorted((run.path / "pictures").glob("step-*.png"))
    rows: dict[str, np.ndarray] = {}
    damaged: list[Block] = []
    for file in dict.fromkeys(files[i] for i in (0, len(files) // 2, -1) if files):
        try:
            before, after = _drawn_in_training(file, run.held_out.contract)
        except InputError as error:
            damaged.append(Text(f"A picture of training cannot be shown: {error}"))
            continue
        rows.setdefault("original", before)
        rows[f"{int(file.stem.removeprefix('step-')):,}"] = after
    if not rows:
        return damaged
    summary = "What came back at these steps of training."
    caption = f"{run.name}. {summary}" if is_named else summary
    shown = Pictures(np.concatenate(list(rows.values())), _PER_ROW, list(rows), caption=caption)
    return [shown, *damaged]


def _drawn_in_training(file: Path, contract: ImageContract) -> tuple[np.ndarray, np.ndarray]:
    """The first row of originals of a picture that training saved, and what came back of them."""
    pixels = open_image(file)
    try:
        images = cut_grid(pixels, contract.height, contract.width, scale=2)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    if len(images) < 2 * _PER_ROW:
        raise InputError(f"{file}: expected two rows of {_PER_ROW} images, found {len(images)}")
    return images[:_PER_ROW], images[_PER_ROW : 2 * _PER_ROW]


def _uncertainty_maps(
    tokenizer: Tokenizer, dataset: ImageDataset, name: str
) -> list[ReportSection]:
    """Evidence, or else entropy, laid over images; nothing where the quantizer tells of neither."""
    device = device_of(tokenizer)
    images = _shown(dataset, _PER_ROW)
    draw = seeding.generator(0, "pictures", device=device)
    _, maps = tokenizer.encode_with_certainty(images.to(device), generator=draw)
    found = {key: values.cpu() for key, values in uncertainty_map(maps).items()}
    if not found:
        return []
    measure = next(iter(found)).partition("_level")[0]
    seen = as_rgb(images)
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
    return [ReportSection(f"Where it is unsure{name}", [Text(text), picture])]


def _as_rgb(images: Tensor) -> np.ndarray:
    pixels = as_pixels(images)
    return np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:]))


def _codes(
    tokenizer: Tokenizer, dataset: ImageDataset, encoded: EncodedImageCodes, name: str
) -> ReportSection:
    """How often each code is used, and what the common and the rare ones stand for."""
    blocks: list[Block] = []
    levels = len(tokenizer.num_codes)
    for level, num_codes in enumerate(tokenizer.num_codes):
        codes, counts = codes_to_show(encoded.codes[level], num_codes, COMMON, RARE)
        use = codebook_use(counts)
        which = f"Level {level}. " if levels > 1 else ""
        caption = (
            f"{which}How often each code occurs in {len(encoded.indices):,} held-out images: "
            f"{use.codes_used:,} of {num_codes:,} codes are used, perplexity {use.perplexity:.1f}."
        )
        drawn = usage_histogram(counts)
        blocks.append(Figure(drawn, f"{which}Sorted usage of the codes", caption))
        blocks.append(_patches(tokenizer, dataset, encoded, level, codes, counts))
    return ReportSection(f"The codes{name}", blocks)


def _patches(
    tokenizer: Tokenizer,
    dataset: ImageDataset,
    encoded: EncodedImageCodes,
    level: int,
    codes: Sequence[int],
    counts: Tensor,
) -> Pictures:
    rows = []
    painted = decoded_single_codes(tokenizer, codes) if len(tokenizer.num_codes) == 1 else None
    for i, code in enumerate(codes):
        found = [as_rgb(p) for p in code_patches(dataset, encoded, level, code, PATCHES)]
        row = [as_pixels(p) for p in ([as_rgb(painted[i : i + 1])] if painted is not None else [])]
        row += [as_pixels(p) for p in found]
        blank = np.full((PATCHES - len(found), *row[0].shape[1:]), 255, dtype=np.uint8)
        rows.append(np.concatenate([*row, blank]))
    headers = ["alone", "found", *[""] * (PATCHES - 1)]
    summary = (
        "Alone: what the decoder paints where a code has only copies of itself around it; then p"
    )
    caption = (
        f"{summary if painted is not None else 'P'}laces where the code was found, with as much "
        f"again around them. The {min(len(codes), COMMON)} most used codes"
        + (f", then {len(codes) - COMMON} of the rarest." if len(codes) > COMMON else ".")
    )
    return Pictures(
        np.concatenate(rows),
        PATCHES + (painted is not None),
        # Spaces that keep a number and what it counts on one line.
        [f"code\N{NO-BREAK SPACE}{c}, {int(counts[c]):,}\N{NO-BREAK SPACE}x" for c in codes],
        headers if painted is not None else headers[1:],
        caption,
    )


@torch.no_grad()
def decoded_single_codes(tokenizer: Tokenizer, codes: Sequence[int]) -> Images:
    """The middle of what each code decodes to when it fills the grid; one level only."""
    (grid,) = tokenizer.grids
    device = device_of(tokenizer)
    full = torch.tensor(codes, device=device).view(-1, 1, 1).expand(-1, *grid).contiguous()
    return cut_patch(tokenizer.decode((full,)).cpu(), (grid[0] // 2, grid[1] // 2), grid)
