"""What is the GPT prior's own."""

import itertools
import warnings

import pytest
import torch
from torch.testing import assert_close

from imagetok.config import validate
from imagetok.errors import ConfigError
from prior.base import NO_LABEL, negative_log_likelihood
from prior.build import build_prior
from prior.config import PriorConfig

NAMES = ["gpt", "gpt-rotary", "gpt-rectangular", "gpt-two-level", "gpt-rotary-two-level"]


def config(grids=((2, 2),), num_codes=(3,), num_classes=0, **model) -> PriorConfig:
    tree = {
        "tokenizer_fingerprint": "f" * 64,
        "num_codes": num_codes,
        "grids": grids,
        "num_classes": num_classes,
        "model": {"kind": "gpt", "layers": 2, "heads": 2, "width": 16, **model},
    }
    return validate(tree, PriorConfig, "test")


@pytest.mark.parametrize("prior", NAMES, indirect=True)
def test_every_code_and_class_has_a_token_of_its_own(prior):
    config = prior.config
    taken = [t for s in prior.slices for t in range(s.start, s.stop)]
    labels = torch.tensor([*range(config.num_classes), NO_LABEL])
    taken += prior.class_tokens(labels).tolist()
    assert taken == list(range(sum(config.num_codes) + config.num_classes + 1))


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_the_probabilities_of_every_image_sum_to_one(positions):
    torch.manual_seed(0)
    prior = build_prior(config(positions=positions, num_classes=2)).double().eval()
    every = torch.tensor(list(itertools.product(range(3), repeat=4))).view(81, 2, 2)
    for label in (0, 1, NO_LABEL):
        nll = negative_log_likelihood(prior((every,), torch.full((81,), label)), (every,))
        assert_close((-nll.sum(1)).exp().sum().item(), 1.0, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["gpt", "gpt-rotary"])
def test_the_order_of_what_was_seen_matters(name, named):
    """Without positions, attention would read the same from both."""
    prior, labels = named(name).double(), torch.tensor([0])
    one, other = (torch.tensor([[[a, b, 3], [0, 0, 0], [0, 0, 0]]]) for a, b in ((1, 2), (2, 1)))
    logits = [prior((codes,), labels)[0][0, :, 1, 0] for codes in (one, other)]
    assert not torch.allclose(*logits, atol=1e-3)


def test_keys_and_values_stay_where_they_are_put(named):
    prior = named("gpt")
    stepper = prior.stepper(torch.tensor([0, 1]))
    stepper.next_logits(None)
    layers = stepper.cache.layers
    places = [layer.memory.data_ptr() for layer in layers]
    for _ in range(prior.config.length - 1):
        stepper.next_logits(torch.tensor([2, 3]))
    assert [layer.memory.data_ptr() for layer in layers] == places
    assert [layer.keys.data_ptr() for layer in layers] == places
    assert all(x.keys.shape == x.memory.shape[1:] for x in layers)


@pytest.mark.parametrize("name", ["gpt", "gpt-rotary"])
def test_sampling_uses_nothing_that_transformers_warns_of(name, named):
    stepper = named(name).stepper(torch.tensor([0, 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stepper.next_logits(None)
        stepper.next_logits(torch.tensor([2, 3]))


@pytest.mark.parametrize("name", ["gpt", "gpt-rotary"])
def test_weight_decay_touches_the_matrices_of_its_layers(name, named):
    """GPT-2's matrices lie in transformers' own Conv1D."""
    prior = named(name)
    layers = (torch.nn.Linear, *prior.matrix_layers)
    found = [m.weight for m in prior.modules() if isinstance(m, layers)]
    blocks = prior.body.h if name == "gpt" else prior.body.layers
    assert len(found) == 4 * len(blocks) + 1  # and the head
    assert all(weight.ndim == 2 for weight in found)


def test_rotary_positions_turn_pairs():
    with pytest.raises(ConfigError, match=r"width / heads \(5\) must be even"):
        config(positions="rotary", width=10)
    config(positions="learned", width=10)
