import pytest
import torch
from hypothesis import given
from hypothesis.strategies import integers
from skimage.metrics import structural_similarity
from torch.testing import assert_close

from imagetok import seeding
from imagetok.evaluation import ssim


def pair(seed: int, channels: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = seeding.generator(seed, "ssim")
    x = torch.rand(2, channels, height, width, generator=draw, dtype=torch.float64)
    noise = torch.randn(x.shape, generator=draw, dtype=torch.float64)
    return x, (x + 0.2 * noise).clamp(0, 1)


@given(
    seed=integers(0, 2**32 - 1),
    channels=integers(1, 3),
    height=integers(11, 20),
    width=integers(11, 20),
)
def test_equals_scikit_image(seed, channels, height, width):
    x, y = pair(seed, channels, height, width)
    expected = [
        structural_similarity(
            a.numpy(), b.numpy(), gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            data_range=1.0, channel_axis=0,
        )
        for a, b in zip(x, y, strict=True)
    ]  # fmt: skip
    assert_close(ssim(x, y), torch.tensor(expected), rtol=1e-10, atol=1e-12)


def test_is_one_only_for_equal_images_and_symmetric():
    x, y = pair(0, 3, 32, 32)
    assert_close(ssim(x, x), torch.ones(2, dtype=torch.float64))
    assert (ssim(x, y) < 0.99).all()
    assert_close(ssim(x, y), ssim(y, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flat_images_have_the_luminance_term_alone(dtype):
    x, y = torch.full((1, 1, 12, 12), 0.25, dtype=dtype), torch.full((1, 1, 12, 12), 0.75).to(dtype)
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert_close(ssim(x, y), torch.tensor([expected], dtype=dtype), rtol=1e-3, atol=0)
