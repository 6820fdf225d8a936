"""Running statistics over processes, with the processes' mean given as a function."""

import copy

import torch
from torch import nn
from torch.testing import assert_close

from imagetok import seeding
from imagetok.training.batch_norm import average_batch_norm_statistics


def model() -> nn.Module:
    seeding.reseed_global(0)
    return nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 3, 3), nn.ReLU(), nn.BatchNorm2d(3))


def test_two_models_get_the_mean_of_their_statistics_and_nothing_else_changes() -> None:
    pair = [model(), model()]
    for i, one in enumerate(pair):
        one(torch.randn(4, 1, 8, 8) * (i + 1) + i)
    before = [copy.deepcopy(one.state_dict()) for one in pair]
    sent: list[torch.Tensor] = []
    for one in pair:  # what each process sends, before anyone has the mean
        average_batch_norm_statistics(one, lambda values: sent.append(values) or values)
    mean = torch.stack(sent).mean(dim=0)
    for one in pair:
        average_batch_norm_statistics(one, lambda values: mean)
    for name, value in pair[0].state_dict().items():
        assert torch.equal(value, pair[1].state_dict()[name])
        first, second = before[0][name], before[1][name]
        if "running" in name:
            assert not torch.equal(first, second)
            assert_close(value, (first + second) / 2)
        else:
            assert torch.equal(value, first)


def test_a_model_without_norms_sends_nothing() -> None:
    def fail(values: torch.Tensor) -> torch.Tensor:
        raise AssertionError

    average_batch_norm_statistics(nn.Conv2d(1, 1, 1), fail)
