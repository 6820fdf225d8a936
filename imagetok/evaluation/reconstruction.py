"""How well a tokenizer gives images back, and how it uses its codebook, over a whole split."""

from collections.abc import Callable

import torch
from accelerate.utils import gather, reduce
from torch import Tensor

from imagetok import seeding
from imagetok.data import ImageDataset
from imagetok.evaluation.codebook import code_counts, codebook_use
from imagetok.evaluation.quality import num_sums, quality, quality_sums
from imagetok.images import from_stored
from imagetok.processes import full_float32, process_state
from imagetok.tokenizers import Tokenizer

BATCH = 128
"""Fixed, because the batch-mean perplexity of the EdVAE paper is defined on batches of 128."""
MAPS = ("entropy", "top_logit", "uncertainty", "variance")
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
    `psnr_db`: mean over images of -10 log10 of the clamped image's squared error. Of label maps
    `pixel_accuracy` and `miou` instead (see `quality`).
    `perplexity`, `codes_used`: of hard codes over the split; with several levels the names carry
    the level. `perplexity_batch128`: mean over batches of 128 images in order, as in the EdVAE
    paper's tables (the last batch may be smaller). `entropy`, `top_logit`, `uncertainty`,
    `variance`: means over all positions of what the quantizer says of them (see
    `Quantizer.certainty`), and `max_logit` the largest logit of the split; only where it gives
    probabilities.

    Work is shared over the processes of a distributed run, and every process gets the result.
    check: called before each batch; may raise to stop.
    """
    state = process_state()
    device = next(tokenizer.parameters()).device
    num_batches = -(-len(dataset) // BATCH)
    levels = len(tokenizer.num_codes)
    sums = torch.zeros(levels + num_sums(tokenizer.image), dtype=torch.float64)
    maps = torch.zeros(len(MAPS), 2, dtype=torch.float64)
    highest = -torch.inf
    counts = [torch.zeros(k, dtype=torch.int64) for k in tokenizer.num_codes]
    for first in range(0, num_batches, state.num_processes):
        check()  # on every process, also on one that has no batch left in this round
        batch = first + state.process_index
        if batch < num_batches:
            indices = range(batch * BATCH, min((batch + 1) * BATCH, len(dataset)))
            images = from_stored(dataset.read(indices).images.to(device), tokenizer.image)
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
        **quality(sums[levels:], len(dataset), tokenizer.image),
    }
    for level, level_counts in enumerate(counts):
        suffix = f"_level{level}" if len(counts) > 1 else ""
        use = codebook_use(level_counts)
        result[f"perplexity{suffix}"] = use.perplexity
        result[f"perplexity_batch128{suffix}"] = float(sums[level] / num_batches)
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
    """[perplexity per level, sums of quality], counts per level, maps of a batch."""
    codes, maps = tokenizer.encode_with_certainty(images, generator=draw)
    with torch.no_grad():
        x_hat = tokenizer._decode(codes)
    counts = [
        code_counts(level, k).cpu() for level, k in zip(codes, tokenizer.num_codes, strict=True)
    ]
    perplexities = torch.tensor(
        [codebook_use(level).perplexity for level in counts], dtype=torch.float64
    )
    return torch.cat([perplexities, quality_sums(x_hat, images, tokenizer.image)]), counts, maps


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
