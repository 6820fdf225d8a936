"""The CIFAR-10 ResNet of He et al. 2016, section 4.2, with the names of its published weights."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

WIDTHS = (16, 32, 64)
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


class _Block(nn.Module):
    """A residual block: two 3 x 3 convolutions and a shortcut without parameters (option A)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.stride = 1 if in_channels == out_channels else 2
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        missing = y.shape[1] - x.shape[1]
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return (y + F.pad(shortcut, (0, 0, 0, 0, missing // 2, missing - missing // 2))).relu()


class CIFARResNet(nn.Module):
    """ResNet of depth 6 n + 2 with n blocks per stage; 64 features before `linear`, 10 classes.

    Expects images (B, 3, H, W) in [0, 1], which it normalises as for the published weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, blocks: int):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None], False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None], False)
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        inputs = (WIDTHS[0], *WIDTHS)
        for stage, width in enumerate(WIDTHS, start=1):
            first = _Block(inputs[stage - 1], width)
            rest = (_Block(width, width) for _ in range(blocks - 1))
            self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(WIDTHS[-1], len(CLASSES))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 10"]:
        """Return the logits of the ten classes, (B, 10)."""
        h = self.bn1(self.conv1((images - self.mean) / self.std)).relu()
        for stage in range(1, len(WIDTHS) + 1):
            h = self.get_submodule(f"layer{stage}")(h)
        return self.linear(h.mean(dim=(2, 3)))
