"""How well images come back, and how a tokenizer uses its codebook, over a whole split."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from imagetok.data import ImageDataset
from imagetok.evaluation.batches import Batch, num_batches, read_batch
from imagetok.evaluation.codebook import code_counts, codebook_use
from imagetok.evaluation.quality import num_sums, quality, quality_sums
from imagetok.modes import at_test_time
from imagetok.processes import full_float32, over_processes, process_state
from imagetok.quantizers import level_name
from imagetok.tokenizers import Autoencoder, Tokenizer

MAPS = ("entropy", "top_logit", "uncertainty", "variance", "margin", "encoder_norm")
"""What `Quantizer.certainty` may tell of every position."""


def _nothing() -> None:
    return


@full_float32()
def evaluate_reconstruction(
    model: Autoencoder,
    dataset: ImageDataset,
    check: Callable[[], None] = _nothing,
) -> dict[str, float | int]:
    """Measures over every image of `dataset`, each counted once, by the test-time path.

    `mse`: mean squared error on [0, 1], of the unclamped reconstruction (the papers' convention).
    `psnr_db`: mean over images of -10 log10 of the clamped image's squared error. `ssim`: mean
    over images of the clamped image's SSIM; not for images below 11 pixels. Of label maps
    `pixel_accuracy` and `miou` instead (see `quality`).
    `perplexity`, `codes_used`: of hard codes over the split; with several levels the names carry
    the level. `perplexity_batch128`: mean over batches of 128 images in order, as in the EdVAE
    paper's tables (the last batch may be smaller). `entropy`, `top_logit`, `uncertainty`,
    `variance`: means over all positions of what the quantizer says of them (see
    `Quantizer.certainty`), `entropy_std` the deviation over them, and `max_logit` the largest
    logit of the split; only where it gives probabilities. They carry the level, too, where each
    level has a quantizer. A VAE has the first measures alone.

    Work is shared over the processes of a distributed run, and every process gets the result.
    check: called before each batch; may raise to stop.
    """
    state = process_state()
    count = num_batches(len(dataset))
    levels = len(model.num_codes)
    sums = torch.zeros(levels + num_sums(model.image), dtype=torch.float64)
    names = _map_names(levels)
    maps = torch.zeros(len(names), 3, dtype=torch.float64)
    highest = torch.full((len(names),), -torch.inf)
    counts = [torch.zeros(k, dtype=torch.int64) for k in model.num_codes]
    for first in range(0, count, state.num_processes):
        check()  # on every process, also on one that has no batch left in this round
        batch = first + state.process_index
        if batch < count:
            found = read_batch(model, dataset, range(len(dataset)), batch)
            parts, batch_counts, batch_maps = _measure(model, found)
            sums += parts
            maps += _map_sums(batch_maps, names)
            highest = highest.maximum(_map_maxima(batch_maps, names))
            counts = [total + part for total, part in zip(counts, batch_counts, strict=True)]
    sums = over_processes(sums, "sum")
    maps = over_processes(maps, "sum")
    highest = over_processes(highest, "max")
    counts = [over_processes(level, "sum") for level in counts]
    result: dict[str, float | int] = {
        "num_images": len(dataset),
        **quality(sums[levels:], len(dataset), model.image),
    }
    for level, level_counts in enumerate(counts):
        use = codebook_use(level_counts)
        batch_mean = float(sums[level] / count)
        result |= {
            level_name("perplexity", level, len(counts)): use.perplexity,
            level_name("perplexity_batch128", level, len(counts)): batch_mean,
            level_name("codes_used", level, len(counts)): use.codes_used,
            level_name("num_codes", level, len(counts)): use.num_codes,
        }
    measured = [row for row in zip(names, maps, highest, strict=True) if row[1][0] > 0]
    result |= {name: float(total / positions) for name, (positions, total, _), _ in measured}
    result |= {
        name.replace("entropy", "entropy_std"): _deviation(*row.tolist())
        for name, row, _ in measured
        if name.startswith("entropy")
    }
    return result | {
        name.replace("top", "max"): float(most)
        for name, _, most in measured
        if name.startswith("top_logit")
    }


def _measure(model: Autoencoder, batch: Batch) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    """[perplexity per level, sums of quality], counts per level, maps of a batch."""
    codes, maps = (), {}
    if isinstance(model, Tokenizer):
        codes, maps = model.encode_with_certainty(batch.images, generator=batch.draw())
        with at_test_time(model), torch.no_grad():
            x_hat = model._decode(codes)
    else:
        x_hat = model.reconstruct(batch.images, generator=batch.draw())
    counts = [code_counts(level, k).cpu() for level, k in zip(codes, model.num_codes, strict=True)]
    perplexities = torch.tensor(
        [codebook_use(level).perplexity for level in counts], dtype=torch.float64
    )
    return torch.cat([perplexities, quality_sums(x_hat, batch.images, model.image)]), counts, maps


def _map_names(num_levels: int) -> list[str]:
    """Every name that a map may have: with several levels, their quantizers are one or several."""
    counts = {1, num_levels}
    return [level_name(name, i, count) for count in counts for i in range(count) for name in MAPS]


def _map_sums(maps: dict[str, Tensor], names: list[str]) -> Tensor:
    """(number of positions, sum, sum of squares) of every named map; zeros for those not there."""
    rows = torch.zeros(len(names), 3, dtype=torch.float64)
    for row, name in zip(rows, names, strict=True):
        if name in maps:
            values = maps[name].double()
            row[0], row[1], row[2] = values.numel(), values.sum(), values.square().sum()
    return rows


def _deviation(count: float, total: float, squares: float) -> float:
    """The sample standard deviation."""
    return math.sqrt(max(0.0, squares - total**2 / count) / max(1, count - 1))


def _map_maxima(maps: dict[str, Tensor], names: list[str]) -> Tensor:
    """The largest value of every named map; -inf for those that are not there."""
    return torch.tensor([float(maps[n].max()) if n in maps else -torch.inf for n in names])
