"""Training with gradient checkpointing and in bf16: the same, and nearly the same, as without."""

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from imagetok import seeding
from prior.base import NO_LABEL, Prior, negative_log_likelihood

NAMES = ["gpt", "gpt-rotary", "pixelsnail", "pixelcnn", "hierarchy"]


def gradients(prior: Prior, codes, *, bf16: bool = False) -> tuple[dict[str, Tensor], int, Tensor]:
    """By name, with dropout; how many numbers were kept for the backward pass; the loss."""
    prior.requires_grad_(True).train().zero_grad(set_to_none=True)
    kept = []
    seeding.reseed_global(0, "dropout")
    with saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = prior(codes, torch.full((len(codes[0]),), NO_LABEL))
        loss = negative_log_likelihood(logits, codes).mean()
    loss.backward()
    named = {n: p.grad for n, p in prior.named_parameters() if p.grad is not None}
    return named, sum(kept), loss.detach()


@pytest.mark.parametrize("name", NAMES)
def test_recomputing_activations_changes_no_gradient_and_saves_memory(name, random_codes, named):
    codes = random_codes(named(name), 8)
    plain, much, _ = gradients(named(name), codes)
    prior = named(name)
    prior.recompute_activations()
    found, little, _ = gradients(prior, codes)
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[n], plain[n]) for n in plain)
    assert little < 0.8 * much


@pytest.mark.parametrize("name", NAMES)
def test_bf16_is_near_float32_and_its_loss_is_float32(name, random_codes, named):
    codes = random_codes(named(name), 8)
    plain, _, exact = gradients(named(name), codes)
    found, _, loss = gradients(named(name), codes, bf16=True)
    assert loss.dtype == torch.float32
    assert 0 < abs(loss - exact) < 0.05 * exact
    for n in plain:
        assert (found[n] - plain[n]).norm() <= 0.5 * plain[n].norm() + 1e-3, n
