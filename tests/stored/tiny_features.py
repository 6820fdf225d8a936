"""A feature network without random weights: the mean of each quarter of a grey image."""

import torch
from torch import Tensor, nn


class Quarters(nn.Module):
    """(B, 3, H, W) in [0, 1] -> (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.full((3,), 1 / 3))

    def forward(self, images: Tensor) -> Tensor:
        grey = (images * self.weights[:, None, None]).sum(1, keepdim=True)
        return nn.functional.adaptive_avg_pool2d(grey, 2).flatten(1)


def network() -> nn.Module:
    return Quarters()
