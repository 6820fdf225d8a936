"""VGG-16 with its original weights (Simonyan and Zisserman 2015), for precision and recall.

Kynkaanniemi et al. 2019 measure in the activations of its second fully connected layer, on images
resized to 224 x 224. torchvision's VGG-16 has the same layers, but was trained again. The original
weights are read from their conversion for PyTorch, https://github.com/jcjohnson/pytorch-vgg.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

URL = "https://web.eecs.umich.edu/~justincj/models/vgg16-00b39a1b.pth"
SIZE = 224
PREPROCESSING = f"TF1 bilinear {SIZE}, BGR 0..255 minus the mean"
_MEAN = (103.939, 116.779, 123.68)
"""Mean of ImageNet's training images in blue, green and red, which Caffe subtracts."""
_LINEAR = {"classifier.1": "classifier.0", "classifier.4": "classifier.3"}
"""Linear layers in the file -> in torchvision's VGG-16, which has no flattening layer."""


def build_vgg16(state: dict[str, Tensor]) -> nn.Module:
    """Build the network with weights named as in the file or as in torchvision.

    Raises RuntimeError for weights of another network.
    """
    from torchvision.models import vgg16

    with torch.device("meta"):
        model = vgg16(init_weights=False)
    layers = {name: name.rpartition(".") for name in state}
    named = {
        f"{_LINEAR.get(layer, layer)}.{kind}": state[name]
        for name, (layer, _, kind) in layers.items()
    }
    model.load_state_dict(named, assign=True)
    return model


def to_vgg16(images: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 h w"]:
    """Convert RGB images, pixels in 0..255, to inputs of the network."""
    resized = resize_bilinear(images.float(), SIZE)
    return resized.flip(1) - resized.new_tensor(_MEAN)[:, None, None]


def resize_bilinear(images: Float[Tensor, "B C H W"], size: int) -> Float[Tensor, "B C h w"]:
    """Resize images to size x size as TensorFlow 1 does: corners aligned at the first pixel only.

    Pixel i of the result is read at i H / size, without a filter where images are made smaller.
    """
    height, width = images.shape[2:]
    rows, columns = (_weights(length, size).to(images) for length in (height, width))
    return rows @ images @ columns.T


def _weights(length: int, size: int) -> Float[Tensor, "size length"]:
    """Return the weights of linear interpolation: one row of weights per pixel of the result."""
    place = torch.arange(size, dtype=torch.float64) * length / size
    distance = (place[:, None] - torch.arange(length)).abs()
    weights = (1 - distance).clamp_min(0)
    weights[:, -1] += (place - (length - 1)).clamp_min(0)  # beyond the last pixel: that pixel
    return weights.float()
