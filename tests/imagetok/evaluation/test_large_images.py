"""Large images: the memory of networks and measures is that of small ones, and so are results."""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import imagetok
from imagetok import batch_size, seeding
from imagetok.batch_size import images_at_once
from imagetok.codes.decode import DECODE_BATCH, decode_in_batches
from imagetok.config import validate
from imagetok.data import ImageDataset, ShapesConfig, open_images
from imagetok.evaluation import evaluate_reconstruction
from imagetok.evaluation.batches import EVALUATION_BATCH, rounds
from imagetok.evaluation.codebook_health import codebook_health
from imagetok.evaluation.manipulation import decode_between, decode_neighbours
from imagetok.evaluation.uncertainty_scores import measure_uncertainty
from imagetok.images import ImageContract
from imagetok.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer


def tokenizer_of(side: int, num_classes: int | None = None) -> Tokenizer:
    labels = {"mode": "labels", "num_classes": num_classes, "interpolation": "nearest"}
    tree = {
        "image": {"height": side, "width": side, **(labels if num_classes else {})},
        "network": {"kind": "conv", "width": 8, "groups": 2, "blocks": 1},
        "quantizer": {"kind": "dvae", "num_codes": 16, "code_dim": 4},
    }
    if num_classes:
        tree["quantizer"] = {"kind": "vmf-sqvae", "num_codes": 16, "code_dim": 4}
        tree["likelihood"] = {"kind": "vmf"}
    seeding.reseed_global(0)
    found = build_tokenizer(validate(tree, TokenizerConfig, "test")).eval()
    assert isinstance(found, Tokenizer)
    return found


def images_for(tokenizer: Tokenizer, count: int) -> ImageDataset:
    return open_images(ShapesConfig(count=count), "train", tokenizer.image)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor of floating point that an operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [
            leaf.numel()
            for leaf in tree_leaves(result)
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        ]
        self.numel = max([self.numel, *sizes])
        return result


@pytest.mark.parametrize(
    ("side", "expected"), [(8, 64), (64, 64), (65, 32), (128, 16), (192, 4), (256, 4), (1024, 1)]
)
def test_as_many_large_images_go_together_as_have_the_pixels_of_small_ones(side, expected):
    assert images_at_once(64, ImageContract(height=side, width=side)) == expected


@pytest.mark.parametrize("count", [1, 128, 129, 517])
@pytest.mark.parametrize("side", [64, 256])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_processes_share_whole_runs_of_128_images(count, side, ranks):
    image = ImageContract(height=side, width=side)
    shares = [rounds(count, image, rank, ranks) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    numbers = [[n for n in share if n is not None] for share in shares]
    size = images_at_once(EVALUATION_BATCH, image)
    assert sorted(n for share in numbers for n in share) == list(range(-(-count // size)))
    for rank, share in enumerate(numbers):
        assert share == sorted(share)
        assert all(n * size // EVALUATION_BATCH % ranks == rank for n in share)


@pytest.mark.parametrize(
    "measure",
    [
        evaluate_reconstruction,
        codebook_health,
        measure_uncertainty,
        decode_between,
        partial(decode_neighbours, n=1),
    ],
    ids=["evaluate", "diagnose", "uncertainty", "between", "neighbours"],
)
def test_no_tensor_of_a_measure_grows_with_the_images(measure):
    found = []
    for side, count in ((64, EVALUATION_BATCH), (256, 9)):
        tokenizer = tokenizer_of(side)
        data = images_for(tokenizer, count)
        with Largest() as largest:
            measure(tokenizer, data)
        found.append(largest.numel)
    assert found[1] <= found[0]


def test_label_maps_are_measured_in_as_much_memory_at_every_size():
    found = []
    for side, count in ((64, EVALUATION_BATCH), (256, 9)):
        tokenizer = tokenizer_of(side, num_classes=11)
        data = images_for(tokenizer, count)
        with Largest() as largest:
            evaluate_reconstruction(tokenizer, data)
        found.append(largest.numel)
    assert found[1] <= found[0]


@pytest.fixture
def seen():
    """A tokenizer of images of 256 pixels, and how many are in each pass of its networks."""
    tokenizer, passes = tokenizer_of(256), []
    for network in tokenizer.networks():
        network.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    return tokenizer, passes


def test_codes_are_decoded_a_few_large_images_at_once(seen):
    tokenizer, passes = seen
    codes = (torch.zeros(6, *tokenizer.grids[0], dtype=torch.int64),)
    assert decode_in_batches(tokenizer, codes).shape == (6, 3, 256, 256)
    assert passes == 2 * [images_at_once(DECODE_BATCH, tokenizer.image)]


def test_a_new_code_dataset_of_large_images_records_its_smaller_batch(seen, tmp_path):
    tokenizer, passes = seen
    done = imagetok.encode(tokenizer, images_for(tokenizer, 6), tmp_path / "codes", progress=False)
    assert done.dataset.plan.micro_batch == 4 and passes == [4, 4]


@pytest.mark.slow
def test_measures_do_not_depend_on_how_large_images_are_divided(monkeypatch):
    tokenizer = tokenizer_of(128)
    data = images_for(tokenizer, 140)
    parts = evaluate_reconstruction(tokenizer, data)
    monkeypatch.setattr(batch_size, "_USUAL_PIXELS", 128 * 128)
    assert images_at_once(EVALUATION_BATCH, tokenizer.image) == EVALUATION_BATCH
    assert parts == pytest.approx(evaluate_reconstruction(tokenizer, data), rel=1e-5)
