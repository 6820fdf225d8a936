"""The picture of samples: every image whole, below its class."""

import numpy as np
import pytest
import torch

from prior.generation import _grid
from prior.sample_folder import SamplesRecord


def record(n: int, labels: tuple[int, ...]) -> SamplesRecord:
    return SamplesRecord(
        temperature=1.0, top_k=None, top_p=None, greedy=False, guidance=1.0, seed=0,
        prior="p", origin=None, tokenizer="t", num_images=n, labels=labels,
    )  # fmt: skip


@pytest.mark.parametrize("n", [1, 4, 9, 10, 23])
@pytest.mark.parametrize("classes", [1, 3, 10, 25])
@pytest.mark.parametrize("name", ["{}", "a very long name of class {} that goes on and on"])
def test_a_grid_of_samples_holds_every_image_whole(n, classes, name):
    images = torch.rand((n, 1, 64, 64), generator=torch.Generator().manual_seed(0))
    names = [name.format(label) for label in range(classes)]
    picture = np.asarray(_grid(images, record(n, tuple(range(classes))), names).convert("L"))
    columns = (picture.shape[1] - 2) // 66
    rows = -(-n // columns)
    has_titles = 1 < columns == min(classes, n)
    top, pitch = (28, 66) if has_titles else (18, 84)
    assert picture.shape == (top + (rows - 1) * pitch + 68, 2 + columns * 66)
    for i, image in enumerate((images[:, 0] * 255).round().byte().numpy()):
        y, x = top + 2 + i // columns * pitch, 2 + i % columns * 66
        assert np.array_equal(picture[y : y + 64, x : x + 64], image)
        assert (picture[top - 18 : top, x : x + 64] < 200).any() or i >= columns
