"""Over a code space small enough to count, 3 codes at 2 x 2 places: every image's probability."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from imagetok import seeding
from prior import sampling
from prior.base import NO_LABEL, Prior
from prior.build import build_prior
from prior.config import GPTConfig, PixelCNNConfig, PixelSNAILConfig, PriorConfig

EVERY = torch.tensor(list(itertools.product(range(3), repeat=4))).view(81, 2, 2)
MODELS = {
    "gpt": GPTConfig(layers=2, heads=2, width=16),
    "pixelsnail": PixelSNAILConfig(width=8, blocks=2, units=2, kernel_size=3, heads=2),
    "pixelcnn": PixelCNNConfig(width=8, layers=3, head=16),
}
DRAWS = 4000
CHI_SQUARE_999 = {8: 26.124, 80: 124.839}
"""Its 0.999 quantile by degrees of freedom."""


@pytest.fixture(autouse=True)
def _large_micro_batches(monkeypatch):
    """Thousands of images are wanted here."""
    monkeypatch.setattr(sampling, "MICRO_BATCH", 1000)


@pytest.fixture(params=["gpt", "pixelsnail", "pixelcnn"])
def tiny(request) -> Prior:
    """Two classes."""
    config = PriorConfig(
        tokenizer_fingerprint="f" * 64,
        num_codes=(3,),
        grids=((2, 2),),
        num_classes=2,
        model=MODELS[request.param],
    )
    with torch.random.fork_rng(devices=[]):
        seeding.reseed_global(0, "tiny")
        prior = build_prior(config)
    draw = seeding.generator(0, "tiny weights")
    with torch.no_grad():  # as initialised, every logit is almost 0
        for name, parameter in prior.named_parameters():
            if name.endswith(("bias", "condition.weight")):
                parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.15)
            elif request.param == "gpt" and parameter.ndim == 2:
                parameter.mul_(4)
    return prior.requires_grad_(False).eval()


def probabilities(prior: Prior, label: int) -> Tensor:
    return prior.log_prob((EVERY,), torch.full((81,), label)).double().exp()


def counts_of(codes: Tensor) -> np.ndarray:
    """How often each of the 81 images was drawn."""
    numbers = (codes.flatten(1) * torch.tensor([27, 9, 3, 1])).sum(1)
    return torch.bincount(numbers, minlength=81).numpy()


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    assert expected.min() > 1, "too few draws for the statistic"
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("label", [0, 1, NO_LABEL])
def test_the_probabilities_of_every_image_sum_to_one(tiny, label):
    p = probabilities(tiny, label)
    assert_close(p.sum().item(), 1.0, atol=1e-6, rtol=0)
    assert p.max() > 3 * p.min(), "nearly uniform: nothing would be tested"


def test_classes_have_distributions_of_their_own(tiny):
    one, other, none = (probabilities(tiny, label) for label in (0, 1, NO_LABEL))
    for a, b in [(one, other), (one, none), (other, none)]:
        assert (a - b).abs().sum() > 0.02


@pytest.mark.parametrize("label", [1, NO_LABEL])
def test_images_are_drawn_as_often_as_they_are_likely(tiny, label):
    counts = counts_of(tiny.sample(DRAWS, label=label, seed=5)[0])
    expected = DRAWS * probabilities(tiny, label).numpy()
    assert chi_square(counts, expected) < CHI_SQUARE_999[80]


@pytest.mark.parametrize("top", [[2, 0], [1, 1]])
def test_completions_are_drawn_as_often_as_they_are_likely_given_the_top(tiny, top):
    given = (torch.tensor([[top, [0, 0]]]),)
    codes = tiny.sample(DRAWS, label=1, seed=6, given=given, keep_rows=1)[0]
    fits = (EVERY[:, 0] == torch.tensor(top)).all(1).numpy()
    p = probabilities(tiny, 1).numpy()[fits]
    counts = counts_of(codes)
    assert counts[~fits].sum() == 0
    assert chi_square(counts[fits], DRAWS * p / p.sum()) < CHI_SQUARE_999[8]


def test_temperature_and_top_k_draw_from_the_changed_probabilities(tiny):
    """Of every code given those before it, not of whole images."""
    logits = tiny((EVERY,), torch.full((81,), 0))[0].double()  # (81, 3, 2, 2)
    p = (logits / 0.7).softmax(1)
    p = p * (p > p.min(1, keepdim=True).values)
    p = p / p.sum(1, keepdim=True)
    joint = p.gather(1, EVERY[:, None])[:, 0].flatten(1).prod(1).numpy()
    assert_close(joint.sum(), 1.0, atol=1e-6, rtol=0)
    possible = joint > 0
    assert possible.sum() == 16
    counts = counts_of(tiny.sample(DRAWS, label=0, seed=7, temperature=0.7, top_k=2)[0])
    assert counts[~possible].sum() == 0
    expected = DRAWS * joint[possible]
    assert chi_square(counts[possible], expected) < 37.697  # 15 degrees of freedom
