"""What is PixelCNN's own."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from imagetok.config import validate
from imagetok.errors import ConfigError
from prior.base import NO_LABEL, negative_log_likelihood
from prior.build import build_prior
from prior.config import PixelCNNConfig, PriorConfig
from prior.pixelcnn import FIRST_KERNEL, Layer, PixelCNNPrior, gate


def make(grids=((2, 2),), num_codes=(3,), num_classes=0, **model) -> PixelCNNPrior:
    tree = {
        "tokenizer_fingerprint": "f" * 64,
        "num_codes": num_codes,
        "grids": grids,
        "num_classes": num_classes,
        "model": {"kind": "pixelcnn", "width": 8, "layers": 3, "head": 16, **model},
    }
    torch.manual_seed(0)
    prior = build_prior(validate(tree, PriorConfig, "test"))
    assert isinstance(prior, PixelCNNPrior)
    return prior.double().eval()


@pytest.mark.parametrize("num_classes", [0, 2])
def test_the_probabilities_of_every_image_sum_to_one(num_classes):
    prior = make(num_classes=num_classes)
    every = torch.tensor(list(itertools.product(range(3), repeat=4))).view(81, 2, 2)
    for label in [*range(num_classes), NO_LABEL]:
        nll = negative_log_likelihood(prior((every,), torch.full((81,), label)), (every,))
        # cross_entropy is float32 in the prior's own log_prob.
        assert_close((-nll.sum(1)).exp().sum().item(), 1.0, atol=1e-6, rtol=0)


@pytest.mark.parametrize("is_first", [True, False])
def test_what_each_stack_of_a_layer_sees(is_first):
    """The vertical one: rows above (and its own after the first layer) over the kernel's columns;
    the horizontal one also the left of its own row.
    """
    torch.manual_seed(0)
    layer = Layer(2, 0.0, 0, 0, is_first=is_first).double()
    reach = FIRST_KERNEL // 2 if is_first else 1
    rows, columns = range(6 - reach, 6), range(6 - reach, 7 + reach)
    own = {(6, j) for j in columns}
    expected = {(i, j) for i in rows for j in columns} | (set() if is_first else own)
    left = {(6, j) for j in range(6 - reach, 6 if is_first else 7)}

    def seen(by: int, of: int) -> set[tuple[int, int]]:
        stacks = [torch.randn(1, 2, 10, 13, dtype=torch.float64) for _ in range(2)]
        stacks[of].requires_grad_()
        layer(*stacks, torch.tensor([NO_LABEL]), None)[by][0, :, 6, 6].sum().backward()
        found = stacks[of].grad
        return set() if found is None else set(map(tuple, found[0].abs().sum(0).nonzero().tolist()))

    assert seen(by=0, of=0) == expected
    assert seen(by=1, of=0) == expected
    assert seen(by=0, of=1) == set()
    assert seen(by=1, of=1) == left


def test_the_gate():
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    assert_close(gate(x), x[:, :3].tanh() * x[:, 3:].sigmoid())


def test_both_stacks_of_every_layer_are_conditioned_on_the_class():
    """The last layer's vertical gate feeds nothing: of all others each moves the logits."""
    prior = make(num_classes=2)
    codes, labels = (torch.zeros(3, 2, 2, dtype=torch.int64),), torch.tensor([0, 1, NO_LABEL])
    layers = [module for module in prior.modules() if isinstance(module, Layer)]
    assert len(layers) == 3
    for layer in layers:
        before = prior(codes, labels)[0]
        assert layer.condition is not None and layer.condition.num_embeddings == 3
        with torch.no_grad():
            layer.condition.weight[2] += 1
        after = prior(codes, labels)[0]
        assert torch.equal(before[:2], after[:2])
        assert not torch.allclose(before[2], after[2])
        vertical = layer.of_class(labels)[:, :, None, None]
        x = torch.zeros(3, 8, 2, 2, dtype=torch.float64)
        found = layer(x, x, labels, None)[0]
        assert layer.vertical.bias is not None
        expected = gate(vertical + layer.vertical.bias[:, None, None])
        assert_close(found, expected.expand_as(found))


def test_several_levels_are_refused():
    with pytest.raises(ConfigError, match="pixelcnn: expected codes of one level, found 2"):
        make(grids=((1, 1), (2, 2)), num_codes=(3, 3))


@pytest.mark.parametrize("key", ["width", "layers", "head", "dropout"])
def test_bad_sizes_are_refused(key):
    with pytest.raises(ConfigError, match=key):
        make(**{key: -1})


def test_dropout_acts_in_training_only():
    prior = make(num_codes=(5,), dropout=0.5)
    codes, labels = (torch.zeros(1, 2, 2, dtype=torch.int64),), torch.tensor([NO_LABEL])
    assert torch.equal(prior(codes, labels)[0], prior(codes, labels)[0])
    prior.train()
    assert not torch.equal(prior(codes, labels)[0], prior(codes, labels)[0])


@pytest.mark.parametrize("width", [64, 128])
def test_the_published_size(width):
    """15 layers and K = 512, with the taps that masks keep only."""
    config = PriorConfig(
        tokenizer_fingerprint="f" * 64,
        num_codes=(512,),
        grids=((8, 8),),
        num_classes=0,
        model=PixelCNNConfig(width=width),
    )
    with torch.device("meta"):
        count = sum(p.numel() for p in build_prior(config).parameters())
    squares = 2 * (3 * 7 + 3) + 14 * 2 * (2 * 3 + 2) + 15 * (4 + 1)  # of width, in the kernels
    biases = 15 * (2 + 2 + 2 + 1)
    head = width * 512 + 512 + 512 * 512 + 512
    assert count == squares * width**2 + biases * width + 512 * width + head
