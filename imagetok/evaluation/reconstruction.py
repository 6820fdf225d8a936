"""Reconstruction quality and codebook utilisation over a whole split."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import NamedTuple

import torch
from torch import Tensor

from imagetok.data import ImageBatch, ImageDataset, ImageError
from imagetok.data.label_maps import without_classes
from imagetok.data.loader_workers import read_ahead
from imagetok.evaluation.batches import Batch, batch_of, evaluation_batch, places_of, rounds
from imagetok.evaluation.code_accumulator import CodeAccumulator
from imagetok.evaluation.pace import Pace
from imagetok.evaluation.reconstruction_error import (
    decode_unclamped,
    num_sums,
    quality,
    quality_sums,
)
from imagetok.host_copy import Started, one_behind
from imagetok.precision import full_float32
from imagetok.processes import all_reduce, device_of, process_state
from imagetok.tokenizers import Autoencoder, Tokenizer
from imagetok.tokenizers.deferred_checks import deferred_checks, refuse_unless_finite


def _nothing() -> None:
    return


@full_float32()
def evaluate_reconstruction(
    model: Autoencoder,
    dataset: ImageDataset,
    check: Callable[[], None] = _nothing,
    pace: Pace | None = None,
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
    with InputError. check: called before each batch; may raise to stop. pace: how images are read.
    """
    state, size = process_state(), evaluation_batch(model.image)
    numbers = rounds(len(dataset), model.image, state.process_index, state.num_processes)
    sums = torch.zeros(num_sums(model.image), dtype=torch.float64)
    accumulator = CodeAccumulator(model.num_codes)
    fault: ImageError | None = None
    mine = [number for number in numbers if number is not None]
    pieces = [places_of(range(len(dataset)), number, size) for number in mine]
    workers = (pace or Pace()).workers(dataset, device_of(model))

    def started(stored: Iterator[ImageBatch]) -> Iterator[Started[_Reconstructed]]:
        nonlocal fault
        for number in numbers:
            check()  # on every process, even if it has no batch left in this round
            if number is not None and fault is None:
                try:
                    batch = batch_of(model, next(stored), number)
                except ImageError as error:
                    fault = error
                    continue
                yield _reconstruct(model, batch)

    with closing(read_ahead(dataset.read, pieces, workers, device_of(model))) as stored:
        for results, about in one_behind(started(stored)):
            sums += about.add(results, accumulator)
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


class _Reconstructed(NamedTuple):
    """What belongs to the results of a batch."""

    levels: int
    """Number of levels of codes; 0 for a VAE."""
    maps: list[str]
    """Names of the maps of `Quantizer.certainty`."""

    def add(self, results: list[Tensor], accumulator: CodeAccumulator) -> Tensor:
        """Add the codes of a batch to the accumulator; return its `quality_sums`."""
        sums, finite, *maps = results
        refuse_unless_finite(finite)
        if self.levels:
            codes, certainty = tuple(maps[: self.levels]), maps[self.levels :]
            accumulator.add(codes, dict(zip(self.maps, certainty, strict=True)))
        return sums


def _reconstruct(model: Autoencoder, batch: Batch) -> Started[_Reconstructed]:
    """Start to reconstruct a batch, unclamped; without waiting for a device."""
    codes: tuple[Tensor, ...] = ()
    certainty: dict[str, Tensor] = {}
    with deferred_checks() as checks:
        if isinstance(model, Tokenizer):
            codes, certainty = model.encode_with_certainty(batch.images, generator=batch.draw())
            x_hat = decode_unclamped(model, codes)
        else:
            x_hat = model.reconstruct(batch.images, generator=batch.draw())
    sums = quality_sums(x_hat, batch.images, model.image)
    finite = checks.finite(len(x_hat), x_hat.device)
    about = _Reconstructed(len(codes), [*certainty])
    return Started([sums, finite, *codes, *certainty.values()], about)
