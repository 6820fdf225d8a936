"""Pixel accuracy and mIoU, counted by hand and over batches."""

import pytest
import torch

from imagetok.evaluation.reconstruction_error import num_sums, quality, quality_sums
from imagetok.images import ImageContract

LABELS = ImageContract(mode="labels", height=2, width=3, interpolation="nearest", num_classes=4)
RGB = ImageContract(mode="rgb", height=2, width=3)


def test_label_maps_are_measured_as_counted_by_hand() -> None:
    images = torch.tensor([[[0, 0, 1], [1, 1, 0]]])
    x_hat = torch.tensor([[[0, 1, 1], [1, 2, 0]]])
    sums = quality_sums(x_hat, images, LABELS)
    assert len(sums) == num_sums(LABELS)
    # 0: 2 of 3; 1: 2 of 4; 2: 0 of 1; 3 does not occur.
    expected = {"pixel_accuracy": 4 / 6, "miou": (2 / 3 + 2 / 4 + 0) / 3}
    assert quality(sums, 1, LABELS) == pytest.approx(expected)


def test_sums_of_batches_measure_the_whole() -> None:
    draw = torch.Generator().manual_seed(0)
    for contract in (LABELS, RGB):
        if contract is LABELS:
            images, x_hat = (torch.randint(4, (5, 2, 3), generator=draw) for _ in range(2))
        else:
            images, x_hat = (torch.rand(5, 3, 2, 3, generator=draw) for _ in range(2))
        whole = quality_sums(x_hat, images, contract)
        parts = [quality_sums(x_hat[part], images[part], contract) for part in ([0, 1], [2, 3, 4])]
        assert len(whole) == num_sums(contract)
        assert quality(sum(parts), 5, contract) == pytest.approx(quality(whole, 5, contract))
    # miou counts over all images: it is no mean over images
    each = [quality(quality_sums(x_hat[:1], images[:1], RGB), 1, RGB)["mse"]]
    assert each[0] == pytest.approx((x_hat[0] - images[0]).square().mean().item())


def test_miou_is_no_mean_over_images() -> None:
    images = torch.tensor([[[0, 0, 0], [0, 0, 1]], [[1, 1, 1], [1, 1, 1]]])
    x_hat = torch.tensor([[[0, 0, 0], [0, 0, 0]], [[1, 1, 1], [1, 1, 1]]])
    found = quality(quality_sums(x_hat, images, LABELS), 2, LABELS)
    assert found["miou"] == pytest.approx((5 / 6 + 6 / 7) / 2)
