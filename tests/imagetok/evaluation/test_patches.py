"""Patches of codes: the pixels that a code was made from, and no others."""

import torch

from imagetok.data import ArrayImages
from imagetok.evaluation.code_patches import (
    EncodedImageCodes,
    code_patches,
    codes_to_show,
    cut_patch,
)
from imagetok.images import ImageContract

CONTRACT = ImageContract(mode="grey", height=8, width=12)


def cells_as_pixels(codes: torch.Tensor) -> torch.Tensor:
    """Images whose every pixel is the code of its cell of 2 x 3."""
    return codes.repeat_interleave(2, 1).repeat_interleave(3, 2)[:, None].to(torch.uint8)


def test_the_middle_of_a_patch_is_the_cell_of_the_code():
    codes = torch.randint(0, 5, (6, 4, 4), generator=torch.Generator().manual_seed(0))
    images = ArrayImages(cells_as_pixels(codes), name="a", split="test", contract=CONTRACT)
    chosen = [5, 0, 3]  # the codes are of some of the images, in an order of their own
    encoded = EncodedImageCodes(chosen, (codes[chosen],))
    for code in range(5):
        found = code_patches(images, encoded, 0, code, 100)
        assert len(found) == int((codes[chosen] == code).sum()) > 0
        for patch in found:
            assert patch.shape == (1, 1, 4, 6)
            assert (patch[..., 1:3, 2:5] * 255 == code).all()


def test_a_patch_repeats_the_edge_beyond_the_border():
    image = torch.arange(96.0).view(1, 1, 8, 12)
    patch = cut_patch(image, (0, 3), (4, 4))
    assert torch.equal(patch[..., 1:, :5], image[..., :3, 7:12])
    assert torch.equal(patch[..., 0, :], patch[..., 1, :])
    assert torch.equal(patch[..., 5], patch[..., 4])


def test_codes_are_sorted_by_use():
    codes = torch.tensor([3, 3, 3, 1, 1, 1, 0, 0, 5]).view(1, 3, 3)
    shown, counts = codes_to_show(codes, 6, most=2, rare=1)
    assert shown == [1, 3, 5] and counts.tolist() == [2, 3, 0, 3, 0, 1]
    assert codes_to_show(codes, 6, most=9, rare=9)[0] == [1, 3, 0, 5]
