"""How well images come back, and how a tokenizer uses its codebook, over a whole split."""

from collections.abc import Callable

import torch
from torch import Tensor

from imagetok.data import ImageDataset
from imagetok.evaluation.batches import Batch, num_batches, read_batch
from imagetok.evaluation.code_accumulator import CodeAccumulator
from imagetok.evaluation.reconstruction_error import (
    decode_unclamped,
    num_sums,
    quality,
    quality_sums,
)
from imagetok.processes import all_reduce, full_float32, process_state
from imagetok.tokenizers import Autoencoder, Tokenizer


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
    sums = torch.zeros(num_sums(model.image), dtype=torch.float64)
    accumulator = CodeAccumulator(model.num_codes)
    for first in range(0, count, state.num_processes):
        check()  # on every process, also on one that has no batch left in this round
        number = first + state.process_index
        if number < count:
            batch = read_batch(model, dataset, range(len(dataset)), number)
            x_hat = _reconstruct(model, batch, accumulator)
            sums += quality_sums(x_hat, batch.images, model.image)
    sums = all_reduce(sums, "sum")
    accumulator.sum_over_processes()
    return {
        "num_images": len(dataset),
        **quality(sums, len(dataset), model.image),
        **accumulator.measures(),
    }


def _reconstruct(model: Autoencoder, batch: Batch, accumulator: CodeAccumulator) -> Tensor:
    """What comes back of a batch, unclamped; codes are added to the tally on the way."""
    if not isinstance(model, Tokenizer):
        return model.reconstruct(batch.images, generator=batch.draw())
    codes, certainty = model.encode_with_certainty(batch.images, generator=batch.draw())
    accumulator.add(codes, certainty)
    return decode_unclamped(model, codes)
