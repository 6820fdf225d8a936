"""Codes replaced by neighbours, and codes from between two images."""

from pathlib import Path

import pytest
import torch

from imagetok import seeding
from imagetok.config import load_config
from imagetok.data import DigitsConfig, open_images
from imagetok.errors import ConfigError
from imagetok.evaluation import evaluate_reconstruction
from imagetok.evaluation.manipulation import (
    code_vectors,
    codebook_neighbours,
    decode_between,
    decode_neighbours,
    neighbours,
)
from imagetok.images import from_stored, to_stored
from imagetok.tokenizers import build_tokenizer
from imagetok.training.config import TokenizerRun

CONFIGS = Path(__file__).parents[3] / "configs"
METHODS = ("digits/edvae", "digits/vqvae", "digits/residual-vq", "shapes/vqvae2")


@pytest.fixture(params=METHODS)
def tokenizer(request):
    if request.param == "digits/residual-vq":
        pytest.importorskip("vector_quantize_pytorch", reason="the zoo is not installed")
    return make(request.param)


def make(name: str):
    seeding.reseed_global(0)
    return build_tokenizer(load_config(CONFIGS / f"{name}.yaml", TokenizerRun).tokenizer).eval()


def random_images(tokenizer, count: int = 3) -> torch.Tensor:
    shape = (count, tokenizer.image.channels, tokenizer.image.height, tokenizer.image.width)
    return torch.rand(shape, generator=torch.manual_seed(0))


def test_the_nearest_are_those_of_brute_force_without_the_code_itself():
    codebook = torch.randn(9, 4, generator=torch.manual_seed(0))
    found = codebook_neighbours(codebook, 3)
    for code, row in enumerate(found.tolist()):
        order = (codebook - codebook[code]).square().sum(dim=1).argsort().tolist()
        assert row == order[1:4] and order[0] == code
    for n in (0, 9):
        with pytest.raises(ConfigError, match=r"expected 1\.\.8 of K - 1"):
            codebook_neighbours(codebook, n)


def test_every_neighbour_is_drawn_as_often_as_the_others():
    nearest = torch.tensor([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
    indices = torch.full((1, 60, 100), 2)
    counts = neighbours(indices, nearest, torch.manual_seed(0)).flatten().bincount(minlength=4)
    assert counts[2] == 0
    assert (counts[[0, 1, 3]] - 2000).abs().max() < 5 * (6000 * 2 / 9) ** 0.5  # five deviations


def test_between_two_images_lie_both_and_at_the_ends_their_own_codes(tokenizer):
    x = random_images(tokenizer)
    y = x.flip(0)
    for share, expected in [(0.0, x), (1.0, y)]:
        found = tokenizer.encode_between(x, y, torch.full((3,), share))
        for level, own in zip(found, tokenizer.encode(expected), strict=True):
            assert torch.equal(level, own)
    same = tokenizer.encode_between(x, x, torch.full((3,), 0.5))
    assert all(map(torch.equal, same, tokenizer.encode(x)))


def test_the_share_mixes_what_the_encoder_gives(tokenizer):
    if not hasattr(tokenizer, "quantizer"):
        pytest.skip("of several encoders the second sees what the first one's mix became")
    x, share = random_images(tokenizer), torch.tensor([0.1, 0.5, 0.8])
    with torch.no_grad():
        h = tokenizer.encoder(tokenizer.likelihood.to_network(x))
    weights = share.view(-1, 1, 1, 1)
    expected = tokenizer.quantizer.encode((1 - weights) * h + weights * h.flip(0))
    found = tokenizer.encode_between(x, x.flip(0), share)
    agreement = [(a == b).double().mean() for a, b in zip(found, expected, strict=True)]
    assert min(agreement) > 0.99  # rounding decides near ties


def test_all_images_once_and_nothing_replaced_is_the_reconstruction():
    tokenizer = make("digits/edvae")
    dataset = open_images(DigitsConfig(), "test", tokenizer.image)
    images = dataset.read(range(len(dataset))).images
    found, mse = decode_neighbours(tokenizer, dataset, 0)
    back = to_stored(tokenizer.reconstruct(from_stored(images, tokenizer.image)))
    assert (found.images.int() - back.int()).abs().max() <= 1  # rounding
    assert mse == evaluate_reconstruction(tokenizer, dataset)["mse"], "one definition"
    changed, _ = decode_neighbours(tokenizer, dataset, 2)
    assert not torch.equal(changed.images, found.images)
    assert torch.equal(changed.images, decode_neighbours(tokenizer, dataset, 2).images.images)
    between, of_none = decode_between(tokenizer, dataset)
    assert len(between) == len(changed) == len(dataset) and of_none is None


def test_residual_levels_have_no_neighbours():
    pytest.importorskip("vector_quantize_pytorch", reason="the zoo is not installed")
    tokenizer = make("digits/residual-vq")
    dataset = open_images(DigitsConfig(), "test", tokenizer.image)
    with pytest.raises(ConfigError, match="residual levels, whose vectors are summed"):
        decode_neighbours(tokenizer, dataset, 1)
    assert code_vectors(tokenizer, tokenizer.encode(random_images(tokenizer))) is None
