"""Feature networks: what they compute, their identity, and files that are refused."""

import hashlib
import math
import sys

import pytest
import torch
from safetensors.torch import save_file

from imagetok.data import ArrayImages, DigitsConfig, open_images
from imagetok.errors import ConfigError, InputError, ResourceError
from imagetok.evaluation import published_weights as published_weights
from imagetok.evaluation.cifar_resnet import CLASSES, CIFARResNet
from imagetok.evaluation.feature_distances import (
    FeatureSet,
    check_shape,
    class_accuracy,
    features_of,
    refuse_not_finite,
)
from imagetok.evaluation.feature_networks import FeatureNetwork, Features, open_features
from imagetok.evaluation.records import measure_samples
from imagetok.images import ImageContract


@pytest.fixture
def images():
    return torch.randint(0, 256, (4, 3, 32, 32), generator=torch.manual_seed(0)).to(torch.uint8)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    model = CIFARResNet(3)
    for part in model.modules():  # as trained: statistics that are not those of the start
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    path = tmp_path / "resnet.safetensors"
    save_file(model.state_dict(), path)
    return path


def test_a_classifier_gives_logits_and_what_its_last_layer_reads(weights, images):
    network = open_features(f"cifar-resnet={weights}")
    found = network(images)
    assert network.name == "cifar-resnet20"
    assert found.vectors.shape == (4, 64)
    linear = network.model.linear
    torch.testing.assert_close(found.logits, found.vectors @ linear.weight.T + linear.bias)
    torch.testing.assert_close(found.logits, network.model(images.float() / 255))


def test_an_image_has_the_same_features_in_every_batch(weights, images):
    network = open_features(f"cifar-resnet={weights}")
    alone = torch.cat([network(image[None]).vectors for image in images])
    torch.testing.assert_close(network(images).vectors, alone)


def test_grey_images_are_three_equal_channels(weights, images):
    network = open_features(f"cifar-resnet={weights}")
    grey = images[:, :1]
    assert torch.equal(network(grey).vectors, network(grey.repeat(1, 3, 1, 1)).vectors)


def test_the_identity_holds_the_weights(weights, tmp_path):
    one = open_features(f"cifar-resnet={weights}")
    assert open_features(f"cifar-resnet={weights}").identity() == one.identity()
    state = dict(one.model.state_dict())
    state["linear.bias"] = state["linear.bias"] + 1e-6
    save_file(state, tmp_path / "other.safetensors")
    other = open_features(f"cifar-resnet={tmp_path / 'other.safetensors'}")
    assert other.sha256 != one.sha256


def test_a_torchvision_model_with_weights_from_a_file(tmp_path, images):
    from torchvision.models import resnet18

    torch.manual_seed(0)
    save_file(resnet18().state_dict(), tmp_path / "resnet18.safetensors")
    network = open_features(f"torchvision:resnet18={tmp_path / 'resnet18.safetensors'}")
    found = network(images)
    assert found.vectors.shape == (4, 512) and found.logits.shape == (4, 1000)
    assert "224" in network.identity()["preprocessing"]


def test_a_module_of_the_users(tmp_path, monkeypatch, images):
    (tmp_path / "their_features.py").write_text("import torch\nflat = torch.nn.Flatten\n")
    monkeypatch.syspath_prepend(tmp_path)
    network = open_features("python:their_features:flat")
    sys.modules.pop("their_features")
    found = network(images)
    assert torch.equal(found.vectors, images.flatten(1).float() / 255) and found.logits is None
    contract = ImageContract(mode="grey", height=8, width=8)
    every = features_of(network, open_images(DigitsConfig(), "test", contract))
    assert every.vectors.shape == (180, 3 * 64)  # of a network without parameters


@pytest.mark.parametrize(
    "spec", ["fid", "cifar-resnet", "torchvision:resnet9000", "python:json", "python:json:dumps"]
)
def test_what_names_no_network_is_refused(spec):
    with pytest.raises(ConfigError, match="--features"):
        open_features(spec)


def test_weights_of_another_network_are_refused(tmp_path):
    save_file({"conv1.weight": torch.zeros(16, 3, 3, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"x\.safetensors: these weights are of another network"):
        open_features(f"cifar-resnet={tmp_path / 'x.safetensors'}")


@pytest.mark.parametrize("content", [b"", b"\x80\x04 a pickle?", b"PK\x03\x04", b'{"a": [1]}'])
@pytest.mark.parametrize("ending", ["safetensors", "pth", "json"])
def test_damaged_weights_are_refused(tmp_path, content, ending):
    path = tmp_path / f"x.{ending}"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=rf"x\.{ending}: this is not a file of weights; expec"
    ) as told:
        open_features(f"cifar-resnet={path}")
    assert "weights_only" not in str(told.value), "torch's advice is to run the file"


def test_code_in_a_weights_file_is_not_run(tmp_path):
    class Planted:
        def __reduce__(self):
            return (open, (str(tmp_path / "planted"), "w"))

    torch.save({"conv1.weight": Planted()}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="not a file of weights") as told:
        open_features(f"cifar-resnet={tmp_path / 'x.pth'}")
    assert "weights_only" not in str(told.value)
    assert not (tmp_path / "planted").exists()


def test_without_torch_fidelity_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ResourceError, match=r"imagetok\[eval\]"):
        open_features("inception")


def test_other_bytes_than_the_published_ones_are_refused(tmp_path):
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    torch.save({}, tmp_path / "inception.pth")
    with pytest.raises(InputError, match="sha256 starts with 6726825d"):
        open_features(f"inception={tmp_path / 'inception.pth'}")


def test_weights_are_fetched_once_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    digest = hashlib.sha256(b"weights").hexdigest()[:8]
    source = tmp_path / f"net-{digest}.pth"
    source.write_bytes(b"weights")
    path = published_weights._fetch(source.as_uri(), "--lpips alex")
    source.unlink()
    assert path.read_bytes() == b"weights"
    assert published_weights._fetch(source.as_uri(), "--lpips alex") == path


def test_weights_that_cannot_be_fetched_are_told_with_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    way_out = (
        r"without network access, put the file at .*net-00000000.* its path with --lpips alex=FILE"
    )
    with pytest.raises(ResourceError, match=way_out):
        published_weights.published((tmp_path / "net-00000000.pth").as_uri(), option="--lpips alex")


def test_classes_are_compared_only_where_they_are_the_same():
    logits = torch.eye(10).repeat(2, 1)
    labels = torch.arange(20) % 10
    labels[:5] = 9  # five of the twenty are seen as another
    found = FeatureSet(torch.zeros(20, 3), logits, labels, CLASSES)
    assert class_accuracy(found, CLASSES) == 15 / 20
    assert class_accuracy(found, CLASSES[::-1]) is None, "in another order"
    assert class_accuracy(found, tuple("0123456789")) is None, "as many, but others"
    assert class_accuracy(found._replace(class_names=()), CLASSES) is None
    assert class_accuracy(found._replace(class_names=()), ()) is None
    assert class_accuracy(found._replace(labels=labels - 1), CLASSES) is None
    assert class_accuracy(found._replace(logits=None), CLASSES) is None


def test_features_know_the_classes_of_their_network(weights):
    contract = ImageContract(mode="grey", height=8, width=8)
    digits = open_images(DigitsConfig(), "test", contract)
    found = features_of(open_features(f"cifar-resnet={weights}"), digits)
    assert found.class_names == CLASSES and len(digits.class_names) == len(CLASSES)
    assert class_accuracy(found, digits.class_names) is None


@pytest.mark.parametrize("bad", [torch.zeros(2, 3, 4), torch.tensor([[1.0, math.nan]])])
def test_features_that_cannot_be_compared_are_refused(bad):
    with pytest.raises(InputError, match=r"--features mine: .*(one vector per image|NaN)"):
        check_shape("mine", bad)
        refuse_not_finite("mine", bad.isfinite().all(dim=1))


def test_a_checkpoint_around_the_weights_is_opened(tmp_path):
    model = CIFARResNet(1)
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "checkpoint.pth")
    found = open_features(f"cifar-resnet={tmp_path / 'checkpoint.pth'}")
    torch.save([1, 2], tmp_path / "list.pth")
    assert found.name == "cifar-resnet8"
    with pytest.raises(InputError, match="only named tensors"):
        open_features(f"cifar-resnet={tmp_path / 'list.pth'}")


def test_other_weights_do_not_get_the_names_of_the_papers(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "vgg16.safetensors")
    with pytest.raises(InputError, match="expected the published file"):
        open_features(f"vgg16={tmp_path / 'vgg16.safetensors'}")


def brightness(images: torch.Tensor) -> Features:
    """A classifier that tells dark images, class 0, from bright ones, class 1."""
    mean = images.float().mean(dim=(1, 2, 3))
    return Features(images.float().mean(dim=3).flatten(1), torch.stack([128 - mean, mean - 128], 1))


@pytest.mark.parametrize(
    "names, accuracy", [(("dark", "bright"), 1), (("bright", "dark"), 0), (("bright",), 0.5)]
)
def test_classes_of_samples_meet_those_of_images_by_name(names, accuracy, caplog):
    contract = ImageContract(mode="grey", height=4, width=4)
    pixels = torch.tensor([20, 220] * 8, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
    truth = torch.tensor([0, 1] * 8)  # as ("dark", "bright") numbers them

    def images(labels: torch.Tensor, classes: tuple[str, ...]) -> ArrayImages:
        return ArrayImages(
            pixels.clone(), labels, name="x", split="all", contract=contract, class_names=classes
        )

    network = FeatureNetwork("b", torch.nn.Identity(), brightness, "none", ("dark", "bright"))
    reference = images(truth, ("dark", "bright"))
    drawn = images(truth if len(names) == 2 else truth * 0, names)
    measures = measure_samples(drawn, reference, [network])["measures"]
    assert measures.get("class_accuracy_b") == accuracy
    turned = images(1 - truth, ("bright", "dark"))
    assert measure_samples(turned, reference, [network])["measures"]["class_accuracy_b"] == 1
    other = images(truth, ("dark", "grey"))
    assert "class_accuracy_b" not in measure_samples(other, reference, [network])["measures"]
    assert "2 (dark, bright), found 2 (dark, grey), of which grey is not expected" in caplog.text
    unnamed = images(truth, ())
    assert "class_accuracy_b" not in measure_samples(unnamed, reference, [network])["measures"]
