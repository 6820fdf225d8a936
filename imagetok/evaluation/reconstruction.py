"""How well a tokenizer gives images back, and how it uses its codebook, over a whole split."""

from collections.abc import Callable

import torch
from accelerate.utils import gather, reduce
from torch import Tensor

from imagetok import seeding
from imagetok.data import ImageDataset
from imagetok.evaluation.codebook import code_counts, codebook_use
from imagetok.evaluation.similarity import SSIM_WINDOW, ssim
from imagetok.images import to_unit_range
from imagetok.processes import full_float32, process_state
from imagetok.tokenizers import Tokenizer

BATCH = 128
"""Fixed, because the batch-mean perplexity of the EdVAE paper is defined on batches of 128."""
MAPS = ("entropy", "top_logit", "uncertainty")
"""What `Quantizer.certainty` may tell of every position."""


def _nothing() -> None:
    return


@full_float32()
def evaluate_reconstruction(
    tokenizer: Tokenizer,
    dataset: ImageDataset,
    check: Callable[[], None] = _nothing,
) -> dict[str, float | int]:
    """Measures over every image of `dataset`, each counted once, by the test-time path.

    `mse`: mean squared error on [0, 1], of the unclamped reconstruction (the papers' convention).
    `psnr_db`: mean over images of -10 log10 of the clamped image's squared error.
    `ssim`: mean over images of the clamped image's SSIM; not for images below 11 pixels.
    `perplexity`, `codes_used`: of hard codes over the split; with several levels the names carry
    the level. `perplexity_batch128`: mean over batches of 128 images in order, as in the EdVAE
    paper's tables (the last batch may be smaller). `entropy`, `top_logit`, `uncertainty`: means
    over all positions of what the quantizer says of them (see `Quantizer.certainty`), and
    `max_logit` the largest logit of the split; only where it gives probabilities.

    Work is shared over the processes of a distributed run, and every process gets the result.
    check: called before each batch; may raise to stop.
    """
    state = process_state()
    device = next(tokenizer.parameters()).device
    num_batches = -(-len(dataset) // BATCH)
    sums = torch.zeros(3 + len(tokenizer.num_codes), dtype=torch.float64)
    maps = torch.zeros(len(MAPS), 2, dtype=torch.float64)
    highest = -torch.inf
    counts = [torch.zeros(k, dtype=torch.int64) for k in tokenizer.num_codes]
    for first in range(0, num_batches, state.num_processes):
        check()  # on every process, also on one that has no batch left in this round
        batch = first + state.process_index
        if batch < num_batches:
            indices = range(batch * BATCH, min((batch + 1) * BATCH, len(dataset)))
            images = to_unit_range(dataset.read(indices).images.to(device))
            draw = seeding.generator(0, "evaluate", batch, device=device)
            parts, batch_counts, batch_maps = _measure(tokenizer, images, draw)
            sums += parts
            maps += _map_sums(batch_maps)
            if "top_logit" in batch_maps:
                highest = max(highest, float(batch_maps["top_logit"].max()))
            counts = [total + part for total, part in zip(counts, batch_counts, strict=True)]
    sums = _sum_over_processes(sums, device)
    maps = _sum_over_processes(maps, device)
    counts = [_sum_over_processes(level, device) for level in counts]
    result: dict[str, float | int] = {
        "num_images": len(dataset),
        "mse": float(sums[0] / len(dataset)),
        "psnr_db": float(sums[1] / len(dataset)),
    }
    if _has_ssim(tokenizer):
        result["ssim"] = float(sums[2] / len(dataset))
    for level, level_counts in enumerate(counts):
        suffix = f"_level{level}" if len(counts) > 1 else ""
        use = codebook_use(level_counts)
        result[f"perplexity{suffix}"] = use.perplexity
        result[f"perplexity_batch128{suffix}"] = float(sums[3 + level] / num_batches)
        result[f"codes_used{suffix}"] = use.codes_used
        result[f"num_codes{suffix}"] = use.num_codes
    result |= {
        name: float(total / positions)
        for name, (total, positions) in zip(MAPS, maps, strict=True)
        if positions > 0
    }
    if "top_logit" in result:
        result["max_logit"] = _largest_over_processes(highest, device)
    return result


def _measure(
    tokenizer: Tokenizer, images: Tensor, draw: torch.Generator
) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    """[sums of MSE, PSNR, SSIM; perplexity per level], counts per level, maps of a batch."""
    codes, maps = tokenizer.encode_with_certainty(images, generator=draw)
    with torch.no_grad():
        x_hat = tokenizer._decode(codes)
    if images.device.type == "mps":  # it has no float64
        x_hat, images = x_hat.cpu(), images.cpu()
    errors = (x_hat - images).double().square().mean(dim=(1, 2, 3))
    clamped = x_hat.clamp(0, 1)
    squares = (clamped - images).double().square().mean(dim=(1, 2, 3))
    psnr = -10 * squares.clamp_min(1e-10).log10()
    similarity = torch.zeros_like(psnr)
    if _has_ssim(tokenizer):
        similarity = ssim(clamped.double(), images.double())
    counts = [
        code_counts(level, k).cpu() for level, k in zip(codes, tokenizer.num_codes, strict=True)
    ]
    perplexities = [codebook_use(level).perplexity for level in counts]
    sums = [*(float(values.sum()) for values in (errors, psnr, similarity)), *perplexities]
    return torch.tensor(sums, dtype=torch.float64), counts, maps


def _has_ssim(tokenizer: Tokenizer) -> bool:
    return min(tokenizer.image.height, tokenizer.image.width) >= SSIM_WINDOW


def _map_sums(maps: dict[str, Tensor]) -> Tensor:
    """(sum, number of positions) of every map of MAPS; zeros for those that are not there."""
    rows = [
        [float(maps[name].sum()), maps[name].numel()] if name in maps else [0, 0] for name in MAPS
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _sum_over_processes(values: Tensor, device: torch.device) -> Tensor:
    if process_state().num_processes == 1:
        return values
    total = reduce(values.to(device), "sum")
    assert isinstance(total, Tensor)
    return total.cpu()


def _largest_over_processes(value: float, device: torch.device) -> float:
    if process_state().num_processes == 1:
        return value
    every = gather(torch.tensor([value], device=device))
    assert isinstance(every, Tensor)
    return float(every.max())
