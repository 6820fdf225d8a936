"""Reconstruction errors: sums over batches, and the measures computed from them."""

import torch
from jaxtyping import Float64
from torch import Tensor

from imagetok.eval_mode import eval_mode
from imagetok.evaluation.structural_similarity import SSIM_WINDOW, ssim
from imagetok.images import ImageContract, Images, with_class
from imagetok.quantizers import Codes, code_counts
from imagetok.tokenizers import Tokenizer


def decode_unclamped(tokenizer: Tokenizer, codes: Codes) -> Images:
    """Decode a tokenizer's own codes without clamping pixels to [0, 1].

    `mse` is always measured on these images (the papers' convention).
    """
    with eval_mode(tokenizer), torch.no_grad():
        return tokenizer._decode(codes)


def quality_sums(x_hat: Images, images: Images, contract: ImageContract) -> Float64[Tensor, " N"]:
    """Return the sums from which `quality` computes its measures, without waiting for a device.

    They can be added over batches and processes. For pixels: the sums over images of squared
    error, PSNR and, for images that are large enough, SSIM. For label maps: per class, the number
    of pixels that have it in both, in the image, and in the reconstruction.
    """
    if contract.num_classes is not None:
        has_class, none = with_class(images, contract), contract.num_classes
        if has_class is not None:
            x_hat, images = (torch.where(has_class, x, none) for x in (x_hat, images))
        both = torch.where(x_hat == images, images, none)
        counts = [code_counts(x, none + 1)[:none] for x in (both, images, x_hat)]
        return _where_double_is(torch.cat(counts)).double()
    x_hat, images = _where_double_is(x_hat), _where_double_is(images)
    errors = (x_hat - images).double().square().mean(dim=(1, 2, 3))
    clamped = x_hat.clamp(0, 1)
    squares = (clamped - images).double().square().mean(dim=(1, 2, 3))
    psnr = -10 * squares.clamp_min(1e-10).log10()
    sums = [errors.sum(), psnr.sum()]
    if _has_ssim(contract):
        sums.append(ssim(clamped.double(), images.double()).sum())
    return torch.stack(sums)


def _where_double_is(tensor: Tensor) -> Tensor:
    """Return a tensor where float64 is supported: not on MPS."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor


def num_sums(contract: ImageContract) -> int:
    """Return the number of sums that `quality_sums` returns."""
    if contract.num_classes is not None:
        return 3 * contract.num_classes
    return 3 if _has_ssim(contract) else 2


def quality(
    sums: Float64[Tensor, " N"], num_images: int, contract: ImageContract
) -> dict[str, float]:
    """Compute `mse`, `psnr_db` and `ssim`, or for label maps `pixel_accuracy` and `miou`.

    `miou`: mean intersection over union of the classes that occur in images or reconstructions,
    with pixels counted over all images. Pixels without a class (`ImageContract.ignore`) don't
    count; without any pixel that does, there are no measures.
    """
    if contract.num_classes is None:
        return dict(zip(("mse", "psnr_db", "ssim"), (sums / num_images).tolist(), strict=False))
    both, there, found = sums.view(3, contract.num_classes)
    if not there.any():
        return {}
    either = there + found - both
    occurs = either > 0
    return {
        "pixel_accuracy": float(both.sum() / there.sum()),
        "miou": float((both[occurs] / either[occurs]).mean()),
    }


def _has_ssim(contract: ImageContract) -> bool:
    return min(contract.height, contract.width) >= SSIM_WINDOW
