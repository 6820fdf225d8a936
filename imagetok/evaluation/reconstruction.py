"""Reconstruction quality and codebook utilisation over a whole split."""

from collections.abc import Callable

import torch
from torch import Tensor

from imagetok.data import ImageDataset, ImageError
from imagetok.data.label_maps import without_classes
from imagetok.evaluation.batches import Batch, num_batches, read_batch
from imagetok.evaluation.code_accumulator import CodeAccumulator
from imagetok.evaluation.reconstruction_error import (
    decode_unclamped,
    num_sums,
    quality,
    quality_sums,
)
from imagetok.precision import full_float32
from imagetok.processes import all_reduce, process_state
from imagetok.tokenizers import Autoencoder, Tokenizer


def _nothing() -> None:
    return


@full_float32()
def evaluate_reconstruction(
    model: Autoencoder,
    dataset: ImageDataset,
    check: Callable[[], None] = _nothing,
) -> dict[str, float | int]:
    """Measure every image of `dataset` once, in eval mode.

    `mse`: mean squared error of the unclamped reconstruction, pixels in [0, 1] (the papers'
    convention). `psnr_db`: mean over images of -10 log10 of the squared error of the clamped
    reconstruction. `ssim`: mean over images of its SSIM; not for images below 11 pixels. For label
    maps, `pixel_accuracy` and `miou` instead (see `quality`).
    `perplexity`, `codes_used`: of hard codes over the split; with several levels, names include
    the level. `perplexity_batch128`: mean over batches of 128 images in order, as in the EdVAE
    paper's tables; a smaller last batch is left out unless it is the only one.
    `perplexity_batch32`: mean over batches of 32 images with the last one, as the SQ-VAE code
    computes it. `entropy`, `top_logit`, `uncertainty`,
    `variance`: means over all positions of the maps of `Quantizer.certainty`; `entropy_std`: the
    standard deviation over positions; `max_logit`: the largest logit of the split. `commitment`:
    mean over positions and dimensions of the squared distance of the encoder output from its code,
    and `commitment_norm` with the norm of the squared differences over dimensions. These exist only
    if the quantizer has them; names include the level if each level has its own quantizer. A VAE
    has the measures of the first paragraph only.

    `skipped`: images of the dataset that are left out because they cannot be read; absent for 0.

    The processes of a distributed run share the work, and every process gets the result; if one
    cannot read an image, all raise ImageError. Label maps in which no pixel has a class are refused
    with InputError. check: called before each batch; may raise to stop.
    """
    state = process_state()
    count = num_batches(len(dataset))
    sums = torch.zeros(num_sums(model.image), dtype=torch.float64)
    accumulator = CodeAccumulator(model.num_codes)
    fault: ImageError | None = None
    for first in range(0, count, state.num_processes):
        check()  # on every process, even if it has no batch left in this round
        number = first + state.process_index
        if number < count and fault is None:
            try:
                batch = read_batch(model, dataset, range(len(dataset)), number)
            except ImageError as error:
                fault = error
                continue
            x_hat = _reconstruct(model, batch, accumulator)
            sums += quality_sums(x_hat, batch.images, model.image)
    _raise_on_all(fault)
    sums = all_reduce(sums, "sum")
    accumulator.sum_over_processes()
    measured = quality(sums, len(dataset), model.image)
    if not measured:
        raise without_classes(dataset)
    return {
        "num_images": len(dataset),
        **({"skipped": len(dataset.skipped)} if dataset.skipped else {}),
        **measured,
        **accumulator.measures(),
    }


def _raise_on_all(fault: ImageError | None) -> None:
    """Raise ImageError on every process if one of them could not read an image (a collective)."""
    is_faulty = bool(all_reduce(torch.tensor(float(fault is not None)), "max"))
    if fault is not None:
        raise fault
    if is_faulty:
        raise ImageError("another process of this run could not read an image; see its message")


def _reconstruct(model: Autoencoder, batch: Batch, accumulator: CodeAccumulator) -> Tensor:
    """Reconstruct a batch, unclamped, and add its codes to the accumulator."""
    if not isinstance(model, Tokenizer):
        return model.reconstruct(batch.images, generator=batch.draw())
    codes, certainty = model.encode_with_certainty(batch.images, generator=batch.draw())
    accumulator.add(codes, certainty)
    return decode_unclamped(model, codes)
