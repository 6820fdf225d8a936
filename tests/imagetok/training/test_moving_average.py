"""The moving average of the weights."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from imagetok import seeding
from imagetok.training.checkpoint import build_average


def test_the_average_is_that_of_torch_and_is_stored_alike():
    seeding.reseed_global(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5))
    average = build_average(model, 0.9)
    assert average is not None
    expected = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=False)
    for _ in range(4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        model(torch.randn(3, 7))
        average.update_parameters(model)
        expected.update_parameters(model)
        found, state = average.state_dict(), expected.state_dict()
        assert found.keys() == state.keys()
        assert [name for name in state if not torch.equal(found[name], state[name])] == []


def test_there_is_no_average_without_a_decay():
    assert build_average(nn.Linear(1, 1), None) is None
