"""LPIPS: the library's arithmetic, laws of a distance, whole splits, and what is refused."""

import sys
from pathlib import Path

import pytest
import torch
from representative import slow_but
from safetensors.torch import save_file

from imagetok import seeding
from imagetok.config import load_config
from imagetok.data import DigitsConfig, ShapesConfig, open_images
from imagetok.errors import ConfigError, InputError, ResourceError
from imagetok.evaluation import lpips
from imagetok.evaluation.lpips import BACKBONES, mean_distance, open_perceptual
from imagetok.images import from_stored, to_stored
from imagetok.tokenizers import build_tokenizer
from imagetok.training.config import TokenizerRun

CONFIGS = Path(__file__).parents[3] / "configs"
pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")


@pytest.fixture(scope="module")
def specs(tmp_path_factory) -> dict[str, str]:
    """Of each backbone, with random weights in a file."""
    import torchvision.models as models

    folder, specs = tmp_path_factory.mktemp("backbones"), {}
    for name, backbone in BACKBONES.items():
        seeding.reseed_global(0, name)
        with torch.device("meta"):
            features = models.get_model(backbone.model).features
        state = {
            f"features.{k}": torch.randn(v.shape) / v[0].numel() ** 0.5
            for k, v in features.state_dict().items()
        }
        save_file(state, folder / f"{name}.safetensors")
        specs[name] = f"{name}={folder / f'{name}.safetensors'}"
    return specs


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.manual_seed(0)
    x, y = torch.randint(0, 256, (2, 3, 3, 40, 36), generator=draw).to(torch.uint8)
    return x, y


@pytest.mark.parametrize("name", slow_but(["alex"], BACKBONES))
def test_the_arithmetic_is_the_librarys(specs, pair, name):
    from torchmetrics.functional.image.lpips import _LPIPS

    ours = open_perceptual(specs[name])
    theirs = _LPIPS(pretrained=True, pnet_rand=True, net=name)
    slices = [getattr(theirs.net, f"slice{i + 1}") for i in range(len(ours.slices))]
    for part, other in zip(ours.slices, slices, strict=True):
        values = part.state_dict().values()
        other.load_state_dict(dict(zip(other.state_dict(), values, strict=True)))
    expected = theirs(*(image.float() / 255 for image in pair), normalize=True).flatten()
    assert (expected > 1e-3).all()
    torch.testing.assert_close(ours(*pair), expected)


def test_it_is_a_distance_of_each_pair_alone(specs, pair):
    x, y = pair
    distance = open_perceptual(specs["alex"])
    assert torch.equal(distance(x, x), torch.zeros(3))
    torch.testing.assert_close(distance(x, y), distance(y, x))
    alone = torch.cat([distance(a[None], b[None]) for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(distance(x, y), alone)
    grey = (x[:, :1], y[:, :1])
    torch.testing.assert_close(distance(*grey), distance(*(i.repeat(1, 3, 1, 1) for i in grey)))


def test_the_identity_holds_the_weights(specs):
    one = open_perceptual(specs["alex"])
    assert one.identity() == open_perceptual(specs["alex"]).identity()
    assert one.identity()["network"] == "lpips_alex_unchecked", "the plain name is the papers'"
    file = Path(specs["alex"].partition("=")[2])
    other = file.read_bytes()[:-1] + b"\x01"
    (changed := file.with_name("changed.safetensors")).write_bytes(other)
    assert open_perceptual(f"alex={changed}").sha256 != one.sha256


def untrained(name: str):
    seeding.reseed_global(0)
    config = load_config(CONFIGS / name, TokenizerRun).tokenizer
    return build_tokenizer(config).eval()


def test_every_reconstruction_counts_once(specs, monkeypatch):
    monkeypatch.setattr(lpips, "FEATURE_BATCH", 4)
    model, distance = untrained("shapes/edvae.yaml"), open_perceptual(specs["alex"])
    dataset = open_images(ShapesConfig(test_count=10), "test", model.image)
    images = dataset.read(range(len(dataset))).images
    back = to_stored(model.reconstruct(from_stored(images, model.image)))
    expected = torch.cat([distance(images[i : i + 1], back[i : i + 1]) for i in range(len(back))])
    assert mean_distance(distance, model, dataset) == pytest.approx(float(expected.mean()), 1e-5)


def test_small_images_and_label_maps_are_refused(specs):
    model = untrained("digits/edvae.yaml")
    dataset = open_images(DigitsConfig(), "test", model.image)
    with pytest.raises(
        InputError, match="lpips_alex_unchecked: expected images of at least 31 x 31"
    ):
        mean_distance(open_perceptual(specs["alex"]), model, dataset)
    labels = model.image.model_copy(update={"mode": "labels", "num_classes": 3})
    model.image = labels
    with pytest.raises(ConfigError, match="--lpips: expected a model of images"):
        mean_distance(open_perceptual(specs["alex"]), model, dataset)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_smallest_image_leaves_something_to_look_at(specs, name):
    distance, size = open_perceptual(specs[name]), BACKBONES[name].smallest
    black = torch.zeros(1, 1, size, size, dtype=torch.uint8)
    assert distance(black, 255 - black) > 0
    with pytest.raises(RuntimeError, match="too small"):  # one pixel less is one too few
        torch.nn.Sequential(*distance.slices)(torch.zeros(1, 3, size - 1, size - 1))


def test_other_names_and_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="--lpips: expected alex or vgg"):
        open_perceptual("squeeze")
    save_file({"features.0.weight": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"x\.safetensors: these weights are of another network"):
        open_perceptual(f"alex={tmp_path / 'x.safetensors'}")
    torch.save({}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="sha256 starts with 7be5be79"):
        open_perceptual(f"alex={tmp_path / 'x.pth'}")
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    with pytest.raises(ResourceError, match=r"imagetok\[eval\]"):
        open_perceptual("alex")


def test_with_the_published_weights_noise_grows_the_distance():
    try:
        distance = open_perceptual("alex")
    except ResourceError as error:
        pytest.skip(str(error).partition(":")[0])
    assert distance.name == "lpips_alex"
    images = open_images(ShapesConfig(count=8), "test", None).read(range(8)).images
    noise = torch.randn(images.shape, generator=torch.manual_seed(0))
    near, far = (
        distance(images, (images + s * noise).clamp(0, 255).to(torch.uint8)) for s in (8, 64)
    )
    assert (near < far).all() and far.mean() > 0.1
