"""What is PixelSNAIL's own."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from imagetok.config import validate
from imagetok.errors import ConfigError
from imagetok.training.config import OptimizerConfig
from imagetok.training.optimizer import build_optimizer
from prior.base import NO_LABEL, negative_log_likelihood
from prior.build import build_prior
from prior.config import PixelSNAILConfig, PriorConfig, PriorRun
from prior.pixelsnail import PixelSNAILPrior
from prior.pixelsnail_layers import CausalConv2d

MODEL = {"kind": "pixelsnail", "width": 8, "blocks": 1, "units": 1, "kernel_size": 3, "heads": 2}


def make(grids=((2, 2),), num_codes=(3,), num_classes=0, **model) -> PixelSNAILPrior:
    tree = {
        "tokenizer_fingerprint": "f" * 64,
        "num_codes": num_codes,
        "grids": grids,
        "num_classes": num_classes,
        "model": {**MODEL, **model},
    }
    torch.manual_seed(0)
    prior = build_prior(validate(tree, PriorConfig, "test"))
    assert isinstance(prior, PixelSNAILPrior)
    return prior.double().eval()


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("num_classes", [0, 2])
def test_the_probabilities_of_every_image_sum_to_one(attention, num_classes):
    prior = make(attention=attention, num_classes=num_classes)
    every = torch.tensor(list(itertools.product(range(3), repeat=4))).view(81, 2, 2)
    for label in [*range(num_classes), NO_LABEL]:
        nll = negative_log_likelihood(prior((every,), torch.full((81,), label)), (every,))
        # cross_entropy is float32 in the prior's own log_prob.
        assert_close((-nll.sum(1)).exp().sum().item(), 1.0, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_a_causal_convolution_sees_itself_and_what_comes_before(kernel_size):
    torch.manual_seed(0)
    conv = CausalConv2d(1, 1, kernel_size).double()
    image = torch.zeros(1, 1, 9, 9, dtype=torch.float64, requires_grad=True)
    conv(image)[0, 0, 6, 4].backward()
    seen = (image.grad[0, 0] != 0).nonzero().tolist()
    reach = kernel_size // 2
    rows, columns = range(6 - kernel_size + 1, 7), range(4 - reach, 5 + reach)
    assert seen == [[i, j] for i in rows for j in columns if i < 6 or j <= 4]


def test_a_masked_weight_is_normalised_over_what_it_keeps():
    conv = CausalConv2d(3, 4, 5).conv
    gain = conv.parametrizations.weight.original0
    assert_close(conv.weight.flatten(1).norm(dim=1), gain.flatten())


def test_training_leaves_masked_entries_out_of_the_norm():
    prior = make(grids=((3, 3),), num_codes=(5,)).train()
    optimizer = build_optimizer(prior, OptimizerConfig(weight_decay=0.5))
    assert all(group["weight_decay"] == 0 for group in optimizer.param_groups)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    codes = (torch.randint(5, (4, 3, 3)),)
    for _ in range(3):
        logits = prior(codes, torch.full((4,), NO_LABEL))
        negative_log_likelihood(logits, codes).mean().backward()
        assert all(p.grad is not None for p in prior.parameters())
        optimizer.step()
        optimizer.zero_grad()
    for module in prior.modules():
        if isinstance(module, CausalConv2d) and module.conv.kernel_size != (1, 1):
            raw = module.conv.parametrizations.weight.original1
            assert (raw[:, :, -1, 2:] == 0).all()
            assert (raw[:, :, -1, :2] != 0).all()


def test_every_gated_unit_is_conditioned_on_the_class():
    prior = make(num_classes=2, blocks=2, units=2)
    units = [m for m in prior.modules() if hasattr(m, "condition")]
    assert len(units) == 2 * (2 + 3)  # two causal ones, key, query and out, in each block
    assert all(unit.condition.num_embeddings == 3 for unit in units)
    codes, labels = (torch.zeros(3, 2, 2, dtype=torch.int64),), torch.tensor([0, 1, NO_LABEL])
    for unit in units:
        before = prior(codes, labels)[0]
        with torch.no_grad():
            unit.condition.weight[2] += 1
        after = prior(codes, labels)[0]
        assert torch.equal(before[:2], after[:2])
        assert not torch.allclose(before[2], after[2])


def test_several_levels_are_refused():
    with pytest.raises(ConfigError, match="codes of one level, found 2"):
        make(grids=((1, 1), (2, 2)), num_codes=(3, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel_size": 4}, "odd"),
        ({"width": 12, "heads": 4}, "multiple of heads"),
        ({"width": 7}, "multiple of 2"),
        ({"blocks": 1024, "units": 1024}, "above 1024"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_bad_sizes_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        make(**changes)


def test_weight_decay_is_refused():
    tree = {
        "kind": "prior",
        "data": {"source": "codes"},
        "tokenizer": "tokenizer",
        "model": MODEL,
        "train": {
            "steps": 1,
            "batch_size": 1,
            "learning_rate": {"kind": "constant", "value": 0.1},
            "optimizer": {"weight_decay": 0.1},
        },
    }
    with pytest.raises(ConfigError, match="weight_decay"):
        validate(tree, PriorRun, "test")


def test_dropout_acts_in_training_only():
    prior = make(num_codes=(5,), dropout=0.5)
    codes, labels = (torch.zeros(1, 2, 2, dtype=torch.int64),), torch.tensor([NO_LABEL])
    assert torch.equal(prior(codes, labels)[0], prior(codes, labels)[0])
    prior.train()
    assert not torch.equal(prior(codes, labels)[0], prior(codes, labels)[0])


def test_the_published_size():
    """22 M parameters at 128 channels, 4 blocks of 4 units, K = 512."""
    config = PriorConfig(
        tokenizer_fingerprint="f" * 64,
        num_codes=(512,),
        grids=((8, 8),),
        num_classes=0,
        model=PixelSNAILConfig(),
    )
    with torch.device("meta"):
        count = sum(p.numel() for p in build_prior(config).parameters())
    assert count == 21_089_088
