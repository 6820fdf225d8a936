"""The perceptual loss: the measures' arithmetic, gradients, precision, refusals, and runs."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_resume import tree
from torch.testing import assert_close

from imagetok.config import differences, validate
from imagetok.errors import CheckpointError, ConfigError
from imagetok.evaluation.cifar_resnet import CIFARResNet
from imagetok.evaluation.feature_networks import FeatureNetwork
from imagetok.evaluation.lpips import BACKBONES, open_perceptual
from imagetok.images import ImageContract
from imagetok.seeding import reseed_global
from imagetok.training import perceptual as room
from imagetok.training.config import PerceptualConfig, TokenizerRun
from imagetok.training.perceptual import PerceptualLoss
from imagetok.training.tokenizer import train_tokenizer

CONTRACT = ImageContract(mode="rgb", height=32, width=40)
WEIGHT = {"kind": "constant", "value": 0.5}


@pytest.fixture(scope="module")
def cifar(tmp_path_factory) -> str:
    """A feature network with random weights in a file."""
    reseed_global(0)
    path = tmp_path_factory.mktemp("weights") / "cifar.safetensors"
    save_file(CIFARResNet(1).state_dict(), path)
    return f"cifar-resnet={path}"


@pytest.fixture(scope="module")
def alex(tmp_path_factory) -> str:
    """LPIPS with random weights of its backbone in a file."""
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    import torchvision.models as models

    reseed_global(0)
    with torch.device("meta"):
        features = models.get_model(BACKBONES["alex"].model).features
    state = {
        f"features.{k}": torch.randn(v.shape) / v[0].numel() ** 0.5
        for k, v in features.state_dict().items()
    }
    path = tmp_path_factory.mktemp("weights") / "alex.safetensors"
    save_file(state, path)
    return f"lpips:alex={path}"


def opened(network: str, image: ImageContract = CONTRACT, **keys: object) -> PerceptualLoss:
    section = validate({"network": network, "weight": WEIGHT} | keys, PerceptualConfig, "test")
    return PerceptualLoss(section, image, "no")


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels that are whole numbers of 0..255, so that the measures can take them, too."""
    draw = torch.Generator().manual_seed(0)
    x_hat, images = torch.randint(0, 256, (2, 3, 3, 32, 40), generator=draw) / 255
    return x_hat, images


def test_lpips_is_the_measure(alex, pair):
    bytes_of = [(255 * images).round().to(torch.uint8) for images in pair]
    measured = open_perceptual(alex.removeprefix("lpips:"))(*bytes_of).mean()
    assert_close(opened(alex)(*pair), measured)
    assert opened(alex)(pair[0], pair[0]) == 0


@pytest.mark.parametrize("of", ["features", "logits"])
def test_a_feature_network_compares_features_or_logits(cifar, pair, of):
    model = CIFARResNet(1)
    loss = opened(cifar, of=of)
    model.load_state_dict(loss.network.model.state_dict())
    model.eval()
    seen: list[torch.Tensor] = []
    model.linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    def compared(x: torch.Tensor) -> torch.Tensor:
        logits = model(x)
        return logits if of == "logits" else seen.pop()

    x_hat, images = pair
    by_hand, found = x_hat.clone().requires_grad_(), x_hat.clone().requires_grad_()
    expected = (compared(by_hand) - compared(images)).square().mean()
    assert_close(loss(found, images), expected)
    expected.backward()
    loss(found, images).backward()
    assert_close(found.grad, by_hand.grad)
    assert not any(p.requires_grad for p in loss.parameters())


def test_grey_images_are_expanded(cifar):
    grey = torch.rand(2, 1, 16, 16)
    loss = opened(cifar, ImageContract(mode="grey", height=16, width=16))
    wanted = loss(grey.expand(-1, 3, -1, -1), 1 - grey.expand(-1, 3, -1, -1))
    assert_close(loss(grey, 1 - grey), wanted)


@pytest.mark.parametrize("network", ["cifar", "alex"])
def test_half_precision_is_near(network, pair, request):
    section = validate(
        {"network": request.getfixturevalue(network), "weight": WEIGHT}, PerceptualConfig, "test"
    )
    full, half = (PerceptualLoss(section, CONTRACT, name)(*pair) for name in ("no", "bf16"))
    assert half.dtype == torch.float32 and half != full
    assert_close(half, full, rtol=0.05, atol=0)


@pytest.mark.slow  # a large network
def test_a_network_of_torchvision_is_resized_and_normalised(tmp_path, pair):
    import torchvision.models as models

    model = models.resnet18(num_classes=1000).eval()
    save_file(model.state_dict(), tmp_path / "resnet18.safetensors")
    loss = opened(f"torchvision:resnet18={tmp_path / 'resnet18.safetensors'}", of="logits")
    mean, std = (
        torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )

    def logits(images: torch.Tensor) -> torch.Tensor:
        size = {"size": (224, 224), "mode": "bilinear", "antialias": True}
        return model((torch.nn.functional.interpolate(images, **size) - mean) / std)

    x_hat, images = pair
    assert_close(loss(x_hat, images), (logits(x_hat) - logits(images)).square().mean())


def test_networks_that_can_be_no_loss_are_refused(alex, cifar, monkeypatch):
    labels = ImageContract(
        mode="labels", num_classes=4, height=32, width=32, interpolation="nearest"
    )
    with pytest.raises(ConfigError, match="expected a tokenizer of images, found label maps"):
        opened(cifar, labels)
    small = ImageContract(mode="rgb", height=16, width=32)
    with pytest.raises(ConfigError, match=r"at least 31 x 31 pixels, found 16 x 32"):
        opened(alex, small)
    plain = FeatureNetwork("plain", torch.nn.Identity(), lambda x: None, "none")  # pyright: ignore
    monkeypatch.setattr(room, "open_features", lambda spec: plain)
    with pytest.raises(ConfigError, match=r"plain: measures stored pixels only, .*lpips:vgg"):
        opened("plain")


def test_logits_of_what_has_none_are_refused(cifar, tmp_path, monkeypatch):
    (tmp_path / "edges.py").write_text("import torch\ndef net(): return torch.nn.Flatten()\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert opened("python:edges:net").of == "features"
    with pytest.raises(ConfigError, match=r"has no logits; set objective.perceptual.of=features"):
        opened("python:edges:net", of="logits")


def run(objective: dict[str, object], **train: object) -> TokenizerRun:
    whole = tree(**train)
    return validate(whole | {"objective": whole["objective"] | objective}, TokenizerRun, "test")


def records(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_run_logs_it_and_resumes_bit_identically(cifar, tmp_path):
    """With accumulation and a moving average, extended by its second half."""
    objective = {"pixel": "l1", "perceptual": {"network": cifar, "weight": WEIGHT}}
    train_tokenizer(run(objective), tmp_path / "whole", device="cpu")
    train_tokenizer(run(objective, steps=6), tmp_path / "halves", device="cpu")
    train_tokenizer(run(objective), tmp_path / "halves", resume=True, device="cpu")
    whole, halves = records(tmp_path / "whole"), records(tmp_path / "halves")
    assert whole[-1] == halves[-1] and whole[-2] == halves[-2]
    logged = [record for record in whole if record["split"] == "train"]
    assert all(record["perceptual"] > 0 for record in logged)


def test_a_run_is_not_continued_with_other_weights(tmp_path):
    path = tmp_path / "cifar.safetensors"
    objective = {"perceptual": {"network": f"cifar-resnet={path}", "weight": WEIGHT}}
    save_file(CIFARResNet(1).state_dict(), path)
    train_tokenizer(run(objective, steps=2), tmp_path / "run", device="cpu")
    state = tmp_path / "run" / "checkpoints" / "step-00000002" / "state.json"
    assert len(json.loads(state.read_bytes())["networks"]["perceptual network"]) == 64
    save_file(CIFARResNet(1).state_dict(), path)
    with pytest.raises(CheckpointError, match="was saved with another perceptual network"):
        train_tokenizer(run(objective, steps=4), tmp_path / "run", resume=True, device="cpu")


def test_the_loss_is_the_sum_of_its_parts(cifar, tmp_path):
    objective = {"pixel": "l2", "perceptual": {"network": cifar, "weight": WEIGHT}}
    train_tokenizer(run(objective, steps=2, log_every=1), tmp_path / "run", device="cpu")
    for record in records(tmp_path / "run"):
        if record["split"] == "train":
            parts = record["mse"] + 1e-6 * record["kl"] + 0.5 * record["perceptual"]
            assert record["loss"] == pytest.approx(parts, rel=1e-5)


def test_l2_is_the_loss_of_the_likelihood(tmp_path):
    logs = []
    for name, objective in (("absent", {}), ("l2", {"pixel": "l2"}), ("l1", {"pixel": "l1"})):
        train_tokenizer(run(objective, steps=2), tmp_path / name, device="cpu")
        logs.append(records(tmp_path / name))
    assert logs[0] == logs[1] != logs[2]


def test_absent_keys_leave_no_trace():
    dumped = run({}).model_dump()
    assert not {"pixel", "perceptual"} & set(dumped["objective"])
    changed = run({"pixel": "l1"}).model_dump()
    assert differences(dumped, changed) == {"objective.pixel": (None, "l1")}


def test_another_likelihood_has_its_own_pixel_loss():
    whole = tree()
    whole["tokenizer"]["likelihood"] = {"kind": "gaussian"}
    whole["objective"]["pixel"] = "l1"
    with pytest.raises(ConfigError, match=r"objective.pixel: expected null with .*'gaussian'"):
        validate(whole, TokenizerRun, "test")
