"""Structural similarity (SSIM) of images."""

import torch
from jaxtyping import Float
from torch import Tensor

SSIM_WINDOW = 11
"""Side length of the window in pixels; smaller images have no SSIM."""
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2  # for a data range of 1


def ssim(x: Float[Tensor, "B C H W"], y: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
    """Compute the SSIM of each pair of images in [0, 1], in their dtype (Wang et al. 2004, eq. 13).

    Means, variances and covariances are weighted by the paper's Gaussian of 11 x 11 pixels and
    sigma 1.5. The SSIM map is averaged over channels and over the windows inside the image, as by
    scikit-image's `structural_similarity(gaussian_weights=True, use_sample_covariance=False,
    data_range=1)`. (torchmetrics also includes windows that cross the border.)
    """
    mean_x, mean_y, xx, yy, xy = _smooth(torch.stack([x, y, x * x, y * y, x * y]))
    variances = (xx - mean_x**2) + (yy - mean_y**2)
    covariance = xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variances + _C2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _smooth(maps: Tensor) -> Tensor:
    """Compute the Gaussian mean of every window: (..., H, W) -> (..., H - 10, W - 10)."""
    rows, columns = (_windows(size, maps) for size in maps.shape[-2:])
    return rows @ maps @ columns.mT  # banded matrices: BLAS supports float64 on every device


def _windows(size: int, like: Tensor) -> Tensor:
    """Return a matrix (size - 10, size) whose row i holds the weights of the window at i."""
    offsets = torch.arange(SSIM_WINDOW, dtype=like.dtype, device=like.device) - SSIM_WINDOW // 2
    weights = (-0.5 * (offsets / _SIGMA) ** 2).exp()
    weights /= weights.sum()
    starts = torch.arange(size - SSIM_WINDOW + 1, device=like.device)[:, None]
    band = like.new_zeros(len(starts), size)
    places = starts + torch.arange(SSIM_WINDOW, device=like.device)
    return band.scatter(1, places, weights.expand(len(starts), SSIM_WINDOW))
