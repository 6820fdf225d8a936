"""Losses of a discriminator: restated, their gradients, and the laws of LeCAM."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from imagetok.training.adversarial_losses import LeCAM, discriminator_loss, generator_loss

KINDS = ["hinge", "non-saturating"]
logits = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=6)


@given(real=logits, fake=logits)
def test_hinge_losses_are_those_stated(real, fake):
    expected = sum(max(0, 1 - r) for r in real) / len(real)
    expected += sum(max(0, 1 + f) for f in fake) / len(fake)
    found = discriminator_loss("hinge", torch.tensor(real), torch.tensor(fake))
    assert found.item() == pytest.approx(expected / 2, abs=1e-5)
    mean = sum(fake) / len(fake)
    assert generator_loss("hinge", torch.tensor(fake)).item() == pytest.approx(-mean, abs=1e-5)


@given(real=logits, fake=logits)
def test_non_saturating_losses_are_cross_entropies(real, fake):
    def chance(logit: float) -> float:
        return 1 / (1 + math.exp(-logit))

    expected = sum(-math.log(chance(r)) for r in real) / len(real)
    expected += sum(-math.log(1 - chance(f)) for f in fake) / len(fake)
    found = discriminator_loss("non-saturating", torch.tensor(real), torch.tensor(fake))
    assert found.item() == pytest.approx(expected / 2, abs=1e-4)
    fooled = sum(-math.log(chance(f)) for f in fake) / len(fake)
    found = generator_loss("non-saturating", torch.tensor(fake))
    assert found.item() == pytest.approx(fooled, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_they_pull_in_opposite_directions(kind):
    fake = torch.zeros(3, requires_grad=True)
    (up,) = torch.autograd.grad(generator_loss(kind, fake), fake)
    (down,) = torch.autograd.grad(discriminator_loss(kind, torch.zeros(3), fake), fake)
    assert (up < 0).all() and (down > 0).all()


def test_a_sure_discriminator_still_teaches():
    """Where the cross-entropy of fakes has no gradient left, the non-saturating loss has."""
    fake = torch.full((1,), -30.0, requires_grad=True)
    (slope,) = torch.autograd.grad(generator_loss("non-saturating", fake), fake)
    assert_close(slope, torch.tensor([-1.0]))


def test_lecam_is_zero_while_logits_stay_between_the_averages():
    lecam = LeCAM(0.9)
    lecam.averages.copy_(torch.tensor([2.0, 3.0]))  # of real, of fake
    assert lecam(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 5.0])) == 0
    found = lecam(torch.tensor([4.0, 5.0]), torch.tensor([1.0, 0.0]))
    assert_close(found, torch.tensor((1 + 4) / 2 + (1 + 4) / 2))


def test_averages_of_lecam_are_state():
    lecam, other = LeCAM(0.75), LeCAM(0.75)
    lecam.update(torch.tensor(4.0), torch.tensor(-8.0))
    assert_close(lecam.averages, torch.tensor([1.0, -2.0]))
    other.load_state_dict(lecam.state_dict())
    other.update(torch.tensor(1.0), torch.tensor(-2.0))
    assert_close(other.averages, torch.tensor([1.0, -2.0]))
