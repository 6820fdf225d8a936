"""IBQ: the losses, codes and gradients of the released code."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from imagetok import seeding
from imagetok.quantizers import IBQConfig, Quantizer, build_quantizer
from imagetok.testing import check_quantizer

PUBLISHED: dict[str, Any] = json.loads(
    Path(__file__).with_name("published_quantizers.json").read_text()
)
FLOAT64 = torch.float64
SMALL = IBQConfig(num_codes=12, code_dim=5)


def published(name: str) -> Tensor:
    return torch.tensor(PUBLISHED[name], dtype=FLOAT64)


def build(config: IBQConfig, seed: int = 0) -> Quantizer:
    seeding.reseed_global(seed)
    return build_quantizer(config)


def features(seed: int = 0) -> Tensor:
    return torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [None, 0.01])
def test_it_keeps_the_contract(temperature):
    check_quantizer(SMALL.model_copy(update={"entropy_temperature": temperature}))


def test_codes_losses_and_gradients_are_those_of_the_released_code():
    quantizer = build(IBQConfig(num_codes=5, code_dim=3, entropy_temperature=0.5)).double()
    codebook = quantizer.get_parameter("codebook")
    codebook.data.copy_(published("codes"))
    z = published("z").requires_grad_()
    out, expected = quantizer(z), PUBLISHED["ibq"]
    assert out.indices[0].flatten().tolist() == expected["indices"]
    losses = out.losses
    total = losses["quantization"] + losses["commitment"] + 0.25 * losses["codebook"]
    exact, close = (1e-12, 1e-12), (1e-3, 1e-4)
    for name, loss, (rtol, atol) in (
        ("decoder", (published("seen") * out.z_q).sum(), exact),
        ("losses", total, exact),
        ("sample_entropy", losses["sample_entropy"], exact),
        # There is 1e-5 inside of its logarithm there.
        ("diversity", losses["diversity"], close),
    ):
        found = loss, *torch.autograd.grad(loss, [z, codebook], retain_graph=True)
        for key, value in zip(("value", "to_z", "to_codes"), found, strict=True):
            wanted = torch.tensor(expected[name][key], dtype=FLOAT64)
            assert_close(value, wanted, rtol=rtol, atol=atol)


def test_the_decoder_moves_every_code():
    quantizer = build(SMALL)
    out = quantizer(features())
    out.z_q.square().sum().backward()
    gradient = quantizer.get_parameter("codebook").grad
    assert gradient is not None and (gradient.abs().sum(dim=1) > 0).all()
    assert len(out.indices[0].unique()) < 12


def test_a_code_is_the_largest_inner_product_and_its_row():
    quantizer, h = build(SMALL), features()
    logits = torch.einsum("bdhw,kd->bkhw", h, quantizer.get_parameter("codebook"))
    (indices,), out = quantizer.encode(h), quantizer(h)
    assert torch.equal(indices, logits.argmax(dim=1)) and torch.equal(out.indices[0], indices)
    assert torch.equal(out.z_q, quantizer.decode((indices,)))
    assert torch.equal(quantizer.encode(7 * h)[0], indices)
    maps = quantizer.certainty(h)
    assert_close(maps["top_logit"], logits.amax(dim=1))
    p = logits.softmax(dim=1)
    assert_close(maps["entropy"], -(p * p.log()).sum(dim=1))
    assert_close(maps["commitment"], (out.z_q - h).square().mean(dim=1))


def test_permuting_the_codebook_permutes_the_indices():
    quantizer, permuted = build(SMALL), build(SMALL)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    permuted.load_state_dict({"codebook": quantizer.get_parameter("codebook")[order]})
    one, other = quantizer(features()), permuted(features())
    assert torch.equal(order[other.indices[0]], one.indices[0])
    for name in one.losses:
        assert_close(other.losses[name], one.losses[name])
