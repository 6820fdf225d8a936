"""Report sections of a tokenizer: reconstructions, encoder uncertainty and codes."""

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
)
from imagetok.evaluation.uncertainty_scores import uncertainty_map
from imagetok.images import ImageContract, Images, clamp_pixels, from_stored
from imagetok.indices import spread
from imagetok.pictures import as_pixels, as_rgb, class_labels, cut_grid, overlay
from imagetok.processes import device_of
from imagetok.quantizers import codebook_use
from imagetok.reporting import (
    Block,
    Details,
    Figure,
    Pictures,
    ReportSection,
    Text,
    usage_histogram,
)
from imagetok.suggestions import are, counted
from imagetok.tokenizers import Tokenizer

IMAGES = 16
"""Number of images shown with their reconstructions."""
COUNTED = 2000
"""Largest number of images whose codes are counted."""
COMMON, RARE, PATCHES = 16, 8, 7
"""Number of most used and of least used codes shown, and of patches per code."""
_PER_ROW = 8
_MAPS = {
    "uncertainty": "the Dirichlet uncertainty K / S (codebook size over sum of concentrations)",
    "entropy": "the entropy of the code probabilities in nats",
}


def tokenizer_sections(runs: Sequence[TokenizerRunFolder]) -> list[ReportSection]:
    """Build the sections of tokenizer runs: reconstructions, encoder uncertainty and codes.

    Reconstructions of the same images by several runs are shown side by side.
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
    """Group runs by held-out images and image contract."""
    groups: dict[str, list[TokenizerRunFolder]] = {}
    for run in runs:
        assert run.held_out.dataset is not None
        key = f"{run.held_out.contract!r} {run.held_out.dataset.identity()}"
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _shown(dataset: ImageDataset, count: int = IMAGES) -> tuple[Images, list[str]]:
    """Return images spread over a dataset, and the names of their classes."""
    batch = dataset.read(spread(len(dataset), count))
    names = class_labels(batch.labels.tolist(), dataset.class_names)
    return from_stored(batch.images, dataset.contract), names


def _reconstructed(run: TokenizerRunFolder, images: Images) -> Tensor:
    """Return the reconstructions as RGB or grey images in [0, 1]."""
    assert run.model is not None
    draw = seeding.generator(0, "pictures", device=run.device)
    x_hat = run.model.reconstruct(images.to(run.device), generator=draw).nan_to_num().cpu()
    return as_rgb(clamp_pixels(x_hat))


def _before_and_after(
    runs: Sequence[TokenizerRunFolder], is_alone: bool, blocks: list[Block]
) -> ReportSection:
    """Build a section on reconstructions; is_alone: the only one, so its title names no runs."""
    names = "" if is_alone else f" of {', '.join(run.name for run in runs)}"
    return ReportSection(f"Reconstructions{names}", blocks)


def _side_by_side(runs: Sequence[TokenizerRunFolder], is_alone: bool) -> ReportSection:
    """Build the section with held-out images above their reconstructions by every run."""
    held_out = runs[0].held_out
    assert held_out.dataset is not None
    images, classes = _shown(held_out.dataset)
    layers = [as_pixels(as_rgb(images)), *(as_pixels(_reconstructed(r, images)) for r in runs)]
    labels = ["original", *(run.name for run in runs)] if len(runs) > 1 else ["original", "decoded"]
    grids: list[Block] = []
    for start in range(0, len(images), _PER_ROW):
        rows = [layer[start : start + _PER_ROW] for layer in layers]
        named = classes[start : start + _PER_ROW]
        grids.append(Pictures(np.concatenate(rows), len(rows[0]), labels, named))
    summary = [
        f"{run.name}: {kept}" if len(runs) > 1 else kept for run in runs for kept in [_kept(run)]
    ]
    blocks: list[Block] = [
        Text(f"Held-out images ({held_out.source}) above their reconstructions from "
             f"{'; '.join(summary)}."),
        *grids,
    ]  # fmt: skip
    for run in runs:
        blocks += _over_training(run, len(runs) > 1)
    return _before_and_after(runs, is_alone, blocks)


def _kept(run: TokenizerRunFolder) -> str:
    """Return a description of the latent representation of an image."""
    if run.tokenizer is None:
        return "a continuous latent"
    levels = zip(run.tokenizer.grids, run.tokenizer.num_codes, strict=True)
    return " and ".join(f"{h} x {w} codes (codebook size {k})" for (h, w), k in levels)


def _from_training(run: TokenizerRunFolder, is_alone: bool) -> ReportSection:
    """Build the section from pictures saved in training: no artifact, or no held-out images."""
    why = (
        f"Training has not finished; the last logged step is {run.step:,}."
        if run.model is None
        else f"The held-out images cannot be opened here: {run.held_out.reason}"
    )
    return _before_and_after([run], is_alone, [Text(why), *_over_training(run, not is_alone)])


def _over_training(run: TokenizerRunFolder, is_named: bool) -> list[Block]:
    """Show the reconstructions that training saved: first, middle and last evaluation."""
    files = sorted((run.path / "pictures").glob("step-*.png"))
    rows: dict[str, np.ndarray] = {}
    damaged: list[Block] = []
    for file in dict.fromkeys(files[i] for i in (0, len(files) // 2, -1) if files):
        try:
            before, after = _drawn_in_training(file, run.held_out.contract)
        except InputError as error:
            damaged.append(Text(f"A picture saved in training cannot be shown: {error}"))
            continue
        rows.setdefault("original", before)
        rows[f"step {int(file.stem.removeprefix('step-')):,}"] = after
    if not rows:
        return damaged
    summary = "Reconstructions during training."
    caption = f"{run.name}. {summary}" if is_named else summary
    shown = Pictures(np.concatenate(list(rows.values())), _PER_ROW, list(rows), caption=caption)
    return [shown, *damaged]


def _drawn_in_training(file: Path, contract: ImageContract) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of originals of a saved picture, and their reconstructions."""
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
    """Overlay uncertainty, or else entropy, on images; no section if the quantizer has neither."""
    device = device_of(tokenizer)
    images, classes = _shown(dataset, _PER_ROW)
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
        f"Brightness shows {_MAPS[measure]} at every code position: dark is certain, pale yellow "
        f"is the largest value shown ({', '.join(ends)})."
    )
    picture = Pictures(np.concatenate(rows), len(seen), labels, classes)
    return [ReportSection(f"Encoder uncertainty{name}", [Text(text), picture])]


def _as_rgb(images: Tensor) -> np.ndarray:
    pixels = as_pixels(images)
    return np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:]))


def _codes(
    tokenizer: Tokenizer, dataset: ImageDataset, encoded: EncodedImageCodes, name: str
) -> ReportSection:
    """Build the section on codes: usage, and image patches of frequent and rare codes."""
    blocks: list[Block] = []
    levels = len(tokenizer.num_codes)
    for level, num_codes in enumerate(tokenizer.num_codes):
        codes, counts = codes_to_show(encoded.codes[level], num_codes, COMMON, RARE)
        use = codebook_use(counts)
        which = f"Level {level}. " if levels > 1 else ""
        caption = (
            f"{which}Uses of each code in {counted(len(encoded.indices), 'held-out image')}: "
            f"{use.codes_used:,} of {counted(num_codes, 'code')} {are(use.codes_used)} used, "
            f"perplexity {use.perplexity:.1f}."
        )
        drawn = usage_histogram(counts)
        blocks.append(Figure(drawn, f"{which}Usage of each code, sorted", caption))
        patches = _patches(tokenizer, dataset, encoded, level, codes, counts)
        blocks.append(
            Details(f"{which}What the most and the least used codes look like", [patches])
        )
    return ReportSection(f"Codes{name}", blocks)


def _patches(
    tokenizer: Tokenizer,
    dataset: ImageDataset,
    encoded: EncodedImageCodes,
    level: int,
    codes: Sequence[int],
    counts: Tensor,
) -> Pictures:
    rows, empty = [], []
    columns = PATCHES + (len(tokenizer.num_codes) == 1)
    painted = decoded_single_codes(tokenizer, codes) if len(tokenizer.num_codes) == 1 else None
    for i, code in enumerate(codes):
        found = [as_rgb(p) for p in code_patches(dataset, encoded, level, code, PATCHES)]
        row = [as_pixels(p) for p in ([as_rgb(painted[i : i + 1])] if painted is not None else [])]
        row += [as_pixels(p) for p in found]
        blank = np.zeros((columns - len(row), *row[0].shape[1:]), dtype=np.uint8)
        empty += range(i * columns + len(row), (i + 1) * columns)
        rows.append(np.concatenate([*row, blank]))
    headers = ["decoded", "patches", *[""] * (PATCHES - 1)]
    summary = "decoded: the code's area when the whole grid is filled with this code; patches: "
    caption = (
        f"{summary if painted is not None else ''}image patches where the code occurs; the middle "
        "half of each is the code's own area. Rows: the "
        f"{counted(min(len(codes), COMMON), 'most used code')}"
        + (f", then {len(codes) - COMMON} of the least used." if len(codes) > COMMON else ".")
    )
    return Pictures(
        np.concatenate(rows),
        columns,
        # No-break spaces keep a number and its unit on one line.
        [f"code\N{NO-BREAK SPACE}{c}, {int(counts[c]):,}\N{NO-BREAK SPACE}x" for c in codes],
        headers if painted is not None else headers[1:],
        caption,
        empty=empty,
    )


@torch.no_grad()
def decoded_single_codes(tokenizer: Tokenizer, codes: Sequence[int]) -> Images:
    """Decode grids filled with one code each and cut out the centre; for one level only."""
    (grid,) = tokenizer.grids
    device = device_of(tokenizer)
    full = torch.tensor(codes, device=device).view(-1, 1, 1).expand(-1, *grid).contiguous()
    return cut_patch(tokenizer.decode((full,)).cpu(), (grid[0] // 2, grid[1] // 2), grid)
