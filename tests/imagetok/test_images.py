import pytest
import torch

from imagetok.errors import InputError
from imagetok.images import ImageContract, check_images, to_uint8, to_unit_range

RGB = ImageContract(mode="rgb", height=8, width=12)
GREY = ImageContract(mode="grey", height=8, width=12)
NAN = torch.full((2, 3, 8, 12), 0.5).index_fill_(3, torch.tensor([4]), float("nan"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_of_the_contract_pass(dtype: torch.dtype) -> None:
    edges = torch.tensor([0.0, 1.0]).repeat(2, 3, 8, 6).to(dtype)
    check_images(edges, RGB)
    check_images(edges[:, :1], GREY)
    check_images(edges[:0], RGB)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.rand(3, 8, 12), r"images of shape \(B, 3, 8, 12\), found shape \(3, 8, 12\)"),
        (torch.rand(2, 1, 8, 12), "takes rgb images of 3 channels, found 1 channels"),
        (torch.rand(2, 8, 12, 3), "found 8 channels on dim 1"),
        (torch.rand(2, 3, 12, 8), "found 12 x 8 pixels; resize first"),
        (torch.zeros(2, 3, 8, 12, dtype=torch.uint8), r"torch\.uint8; .* images\.float\(\) / 255"),
        (torch.full((2, 3, 8, 12), 255.0), r"found \[255, 255\]; divide 0\.\.255 by 255"),
        (torch.full((2, 3, 8, 12), -0.5), r"found \[-0\.5, -0\.5\]"),
        (torch.full((2, 3, 8, 12), 1.001), "found"),
        (torch.full((2, 3, 8, 12), float("inf")), "found"),
        (NAN, "found .*nan"),
    ],
)
def test_what_is_no_image_of_the_contract_is_refused(images: torch.Tensor, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_images(images, RGB)


def test_bytes_to_unit_range_and_back_is_the_identity() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    unit = to_unit_range(pixels)
    assert unit.dtype == torch.float32 and unit.aminmax() == (0, 1)
    assert torch.equal(to_uint8(unit), pixels)
    assert torch.equal(to_uint8(unit * 3 - 1), ((unit * 3 - 1).clamp(0, 1) * 255).round().byte())
