import pytest
import torch

from imagetok.config import validate
from imagetok.errors import ConfigError, InputError
from imagetok.images import (
    ImageContract,
    check_images,
    clamp_pixels,
    from_stored,
    to_stored,
    to_uint8,
    to_unit_range,
)

RGB = ImageContract(mode="rgb", height=8, width=12)
GREY = ImageContract(mode="grey", height=8, width=12)
LABELS = ImageContract(mode="labels", height=8, width=12, interpolation="nearest", num_classes=11)
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
        (torch.rand(2, 1, 8, 12), "is for rgb images of 3 channels, found 1 on dim 1"),
        (torch.rand(2, 8, 12, 3), "found 8 on dim 1"),
        (torch.rand(2, 3, 12, 8), "found 12 x 8 pixels; resize them first"),
        (torch.zeros(2, 3, 8, 12, dtype=torch.uint8), r"torch\.uint8; .* images\.float\(\) / 255"),
        (torch.full((2, 3, 8, 12), 255.0), r"found \[255, 255\]; divide pixels in 0\.\.255 by 255"),
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


def labels(value: int = 10) -> torch.Tensor:
    maps = torch.arange(11).repeat(2, 8, 2)[:, :, :12].clone()
    maps[1, 2, 5] = value
    return maps


def test_label_maps_of_the_contract_pass() -> None:
    check_images(labels(), LABELS)
    check_images(labels()[:0], LABELS)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (labels(11), r"in \[0, 11\), found 11 at image 1, row 2, column 5; map `void`"),
        (labels(-1), "found -1 at image 1, row 2, column 5"),
        (labels()[:, None], r"shape \(B, 8, 12\), found shape \(2, 1, 8, 12\)"),
        (torch.rand(2, 3, 8, 12), "the class of every pixel, without a channel axis"),
        (labels().mT, "found 12 x 8 pixels; resize them by nearest pixels"),
        (labels().to(torch.uint8), r"expected int64 classes, found torch\.uint8"),
        (labels().float(), r"found torch\.float32; pass labels\.long\(\)"),
    ],
)
def test_what_is_no_label_map_of_the_contract_is_refused(images: torch.Tensor, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_images(images, LABELS)


def test_label_maps_and_pixels_are_stored_and_read_back() -> None:
    assert torch.equal(from_stored(to_stored(labels()), LABELS), labels())
    pixels = torch.arange(2 * 3 * 8 * 12).view(2, 3, 8, 12).remainder(256).to(torch.uint8)
    assert torch.equal(to_stored(from_stored(pixels, RGB)), pixels)
    assert torch.equal(from_stored(pixels, RGB), to_unit_range(pixels))
    assert torch.equal(clamp_pixels(labels()), labels())
    assert clamp_pixels(torch.full((1, 1, 2, 2), 1.5)).max() == 1


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        (
            {"mode": "labels", "interpolation": "nearest"},
            r"expected a number for mode labels, found none",
        ),
        ({"mode": "rgb", "num_classes": 3}, r"expected none, found 3 with mode"),
        ({"mode": "labels", "num_classes": 3}, r"expected nearest .*, found bilinear"),
        ({"mode": "labels", "num_classes": 257, "interpolation": "nearest"}, "num_classes: .*256"),
        ({"mode": "labels", "num_classes": 1, "interpolation": "nearest"}, "num_classes: .*2"),
    ],
)
def test_contracts_that_make_no_sense_are_refused(tree: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        validate({"height": 8, "width": 12, **tree}, ImageContract, "here")


def test_contracts_of_pixels_are_written_as_before_label_maps() -> None:
    keys = ["mode", "height", "width", "centre_crop", "resize", "interpolation"]
    assert list(RGB.model_dump(mode="json")) == keys
    stored = LABELS.model_dump(mode="json")
    assert list(stored) == [*keys, "num_classes"]
    assert validate(stored, ImageContract, "here") == LABELS
