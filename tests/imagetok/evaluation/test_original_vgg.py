"""The VGG-16 of precision and recall: its inputs, its features, its weights and its name."""

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import vgg16

from imagetok.errors import InputError
from imagetok.evaluation.feature_distances import FeatureSet, compare_sets
from imagetok.evaluation.feature_networks import before_last_layer, open_features
from imagetok.evaluation.original_vgg import build_vgg16, resize_bilinear, to_vgg16

SHAPES = [(1, 1), (8, 8), (28, 28), (32, 32), (64, 48), (224, 224), (256, 300)]


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=gen(0)).to(torch.uint8)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as in the published file."""
    return {
        name.replace("classifier.0", "classifier.1").replace("classifier.3", "classifier.4"): value
        for name, value in state.items()
    }


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torch_fidelity_agrees_on_the_resizing(shape):
    theirs = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    images = pixels(2, 3, *shape).float()
    expected = theirs.interpolate_bilinear_2d_like_tensorflow1x(
        images, size=(224, 224), align_corners=False
    )
    # Its positions are in float32: 224 x 2^-24 of a step of up to 255.
    torch.testing.assert_close(resize_bilinear(images, 224), expected, atol=1e-2, rtol=0)


def test_an_image_of_the_size_of_the_network_is_only_shifted():
    images = pixels(2, 3, 224, 224)
    red, green, blue = images.float().unbind(1)
    expected = torch.stack([blue - 103.939, green - 116.779, red - 123.68], dim=1)
    assert torch.equal(to_vgg16(images), expected)


def test_nothing_is_cropped():
    images = torch.zeros(1, 3, 256, 256, dtype=torch.uint8)
    images[..., :8, :] = images[..., :, :8] = 255  # a centre crop of 224 leaves nothing of it
    changed = to_vgg16(images) != to_vgg16(torch.zeros_like(images))
    assert changed[..., :7, :].all() and changed[..., :, :7].all() and not changed.all()


def test_the_names_of_the_published_file_fit():
    with torch.device("meta"):
        state = vgg16(init_weights=False).state_dict()
    for given in (state, renamed(state)):
        model = build_vgg16(given)
        assert {k: v.shape for k, v in model.state_dict().items()} == {
            k: v.shape for k, v in state.items()
        }
    with pytest.raises(RuntimeError, match="Missing key"):
        build_vgg16({"features.0.weight": state["features.0.weight"]})


def test_other_weights_do_not_get_the_plain_names(tmp_path):
    path = tmp_path / "vgg16.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"expected the published file, whose sha256 .* 00b39a1b"):
        open_features(f"vgg16={path}")


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("vgg16", {"precision", "recall", "frechet_vgg16", "kernel_vgg16"}),
        (
            "torchvision:vgg16",
            {f"{m}_torchvision:vgg16" for m in ("precision", "recall", "frechet", "kernel")},
        ),
    ],
)
def test_only_the_original_network_has_the_plain_names(network, expected):
    sets = [FeatureSet(torch.randn(8, 3, generator=gen(s)), None, torch.arange(8)) for s in (0, 1)]
    assert compare_sets(*sets, network).keys() == expected


@pytest.fixture(scope="module")
def random_weights() -> dict[str, Tensor]:
    with torch.device("meta"):
        state = vgg16(init_weights=False).state_dict()
    draw = gen(0)
    return {
        name: torch.randn(value.shape, generator=draw)
        / (value[0].numel() / 2 if value.ndim > 1 else 1) ** 0.5
        for name, value in state.items()
    }


@pytest.mark.slow  # 138 million weights
def test_features_are_the_activations_of_the_second_linear_layer(random_weights):
    model = build_vgg16(renamed(random_weights)).eval()
    images = pixels(2, 3, 32, 40)
    with torch.no_grad():
        found = before_last_layer(model, to_vgg16)(images)
    h, layers = to_vgg16(images), iter(random_weights.values())
    for width in (
        64,
        64,
        "pool",
        128,
        128,
        "pool",
        *(256, 256, 256, "pool"),
        *(512, 512, 512, "pool") * 2,
    ):
        if width == "pool":
            h = F.max_pool2d(h, 2)
        else:
            h = F.conv2d(h, next(layers), next(layers), padding=1).relu()
            assert h.shape[1] == width
    h = h.flatten(1)
    for _ in range(2):
        h = F.linear(h, next(layers), next(layers)).relu()
    torch.testing.assert_close(found.vectors, h, rtol=1e-4, atol=1e-4)
    assert found.logits is not None
    expected = F.linear(h, next(layers), next(layers))
    torch.testing.assert_close(found.logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_network_of_torchvision_has_a_name_of_its_own(random_weights, tmp_path):
    save_file(random_weights, tmp_path / "vgg16.safetensors")
    network = open_features(f"torchvision:vgg16={tmp_path / 'vgg16.safetensors'}")
    assert network.identity()["network"] == network.name == "torchvision:vgg16"
    assert network(pixels(1, 3, 32, 32)).vectors.shape == (1, 4096)
