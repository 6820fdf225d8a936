"""Every classifier of torchvision as a feature network, with weights in the published form."""

import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torchvision.models as models
from representative import slow_but
from safetensors.torch import save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from imagetok.errors import ConfigError, InputError
from imagetok.evaluation.feature_networks import (
    FeatureNetwork,
    before_last_layer,
    build_published,
    open_features,
    published_entry,
)
from imagetok.evaluation.published_weights import read_weights

EVERY = models.list_models(module=models)
# Plain ones, and some whose only weights have names of their own.
ALWAYS = {
    *("alexnet", "googlenet", "mnasnet0_5", "mobilenet_v3_small", "resnet18", "squeezenet1_1"),
    *("vit_b_32",),
}


class WithoutMemory(TorchFunctionMode):
    """Parameters of layers are made on the meta device; what builders compute with is not."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def published_state(name: str) -> OrderedDict[str, torch.Tensor]:
    """As the file of its weights: all heads, the size of its images, DenseNet's old names."""
    smallest = published_entry(name).meta["min_size"][0]
    config = {"image_size": smallest} if name.startswith("vit_") else {}
    if name in ("googlenet", "inception_v3"):
        config = {"init_weights": False}
    state = models.get_model(name, **config).state_dict()
    if not name.startswith("densenet"):
        return state
    old = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))(?=[12]\.)")
    kept = {key: v for key, v in state.items() if not key.endswith("num_batches_tracked")}
    return OrderedDict((old.sub(r"\1.", key), value) for key, value in kept.items())


@pytest.mark.parametrize(
    "name",
    [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in EVERY],
)
def test_every_classifier_is_built_from_its_published_form(name):
    entry = published_entry(name)
    with WithoutMemory():
        model = build_published(name, published_state(name))
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == entry.meta["num_params"]
    model = model.to("meta").eval()
    size = entry.transforms().crop_size[0]
    found = before_last_layer(model, nn.Identity())(torch.zeros(2, 3, size, size, device="meta"))
    assert found.logits is not None and found.logits.shape == (2, len(entry.meta["categories"]))
    assert found.vectors.ndim == 2 and found.vectors.shape[0] == 2


def test_every_published_file_tells_its_hash():
    hashes = [Path(published_entry(name).url).stem.rsplit("-", 1)[1] for name in EVERY]
    assert all(re.fullmatch("[0-9a-f]{8,}", found) for found in hashes)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 32, 32), generator=torch.manual_seed(0)).to(torch.uint8)


def opened(name: str, folder: Path) -> FeatureNetwork:
    torch.manual_seed(0)
    save_file(dict(published_state(name)), folder / f"{name}.safetensors")
    return open_features(f"torchvision:{name}={folder / f'{name}.safetensors'}")


@pytest.mark.parametrize("name", slow_but(["googlenet"], ["googlenet", "inception_v3"]))
def test_images_are_normalised_again_where_the_weights_ask_for_it(name, tmp_path, images):
    network = opened(name, tmp_path)
    first = next(part for part in network.model.modules() if isinstance(part, nn.Conv2d))
    seen = []
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(images)
    prepare = published_entry(name).transforms()
    mean, std = (torch.tensor(v)[:, None, None] for v in (prepare.mean, prepare.std))
    in_unit_range = prepare(images) * std + mean
    torch.testing.assert_close(seen[0], 2 * in_unit_range - 1, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "name",
    slow_but(["mnasnet0_5", "squeezenet1_1"], ["densenet121", "mnasnet0_5", "squeezenet1_1"]),
)
def test_published_forms_with_ways_of_their_own_compute_as_the_model(name, tmp_path, images):
    network = opened(name, tmp_path)
    torch.manual_seed(0)
    expected = models.get_model(name).eval()
    with torch.no_grad():
        logits = expected(published_entry(name).transforms()(images))
    found = network(images)
    torch.testing.assert_close(found.logits, logits)
    if name == "squeezenet1_1":
        assert found.vectors.shape == (2, 512) and (found.vectors >= 0).all()


def test_versions_of_a_pth_file_go_along(tmp_path):
    state = published_state("mnasnet0_5")
    state._metadata[""]["version"] = 3
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="version"):
        build_published("mnasnet0_5", read_weights(tmp_path / "x.pth"))


def test_other_weights_and_names_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    for name in ("mnasnet0_5", "densenet121", "squeezenet1_1"):
        with pytest.raises(
            InputError, match=r"x\.safetensors: these weights are of another network"
        ):
            open_features(f"torchvision:{name}={path}")
    with pytest.raises(ConfigError, match=r"no classifier 'resnet5'; it has .*resnet50"):
        open_features("torchvision:resnet5")
