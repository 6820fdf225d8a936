"""Weights of 2D convolutions are brought to torch's channels-last format, others stay."""

import torch
from torch import nn

from imagetok.processes import with_channels_last


def test_weights_of_3d_convolutions_stay_where_they_are():
    module = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv3d(4, 8, 3), nn.Linear(4, 8))
    values = [parameter.clone() for parameter in module.parameters()]
    flat, deep = module[0].weight, module[1].weight
    assert with_channels_last(module) is module
    assert flat.is_contiguous(memory_format=torch.channels_last)
    assert deep.is_contiguous()
    assert all(torch.equal(a, b) for a, b in zip(values, module.parameters(), strict=True))


def test_the_format_is_that_of_a_module_of_2d_convolutions():
    sizes = [(3, 8, 3), (8, 1, 1), (1, 8, 1), (8, 8, 1)]
    ours, theirs = (nn.Sequential(*(nn.Conv2d(*size) for size in sizes)) for _ in range(2))
    theirs.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    with_channels_last(ours)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert a.stride() == b.stride()
