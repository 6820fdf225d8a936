"""PatchGAN, a discriminator of patches of images (Isola et al. 2017, section 3.2.2).

Layers and initialisation are those of taming-transformers, with group norm in place of batch norm,
so that an image's logits do not depend on its batch, and processes and micro-batches that share a
batch train the same model.
"""

import math
from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor, nn

_MOST = 8  # times `width`
_GROUPS = 32


class PatchGAN(nn.Sequential):
    """(B, channels, H, W), pixels in [-1, 1], to a logit per patch: (B, 1, h, w), high for real.

    width: channels of the first layer; each further one has twice as many, up to 8 times as many.
    layers: convolutions with stride 2; the patches are 2^layers pixels apart.
    """

    def __init__(self, channels: int, width: int, layers: int):
        super().__init__(*_layers(channels, width, layers))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.GroupNorm):
                nn.init.normal_(module.weight, mean=1.0, std=0.02)

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 h w"]:
        return super().forward(input)


def smallest_side(layers: int) -> int:
    """Return the least side length of images in pixels for which there is a patch."""
    return 2**layers * 3  # two further convolutions take a position each


def _layers(channels: int, width: int, layers: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(channels, width, 4, stride=2, padding=1)
    yield nn.LeakyReLU(0.2)
    before = width
    for layer in range(1, layers + 1):
        after = width * min(2**layer, _MOST)
        stride = 2 if layer < layers else 1
        yield nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=False)
        yield nn.GroupNorm(math.gcd(_GROUPS, after), after)
        yield nn.LeakyReLU(0.2)
        before = after
    yield nn.Conv2d(before, 1, 4, padding=1)
