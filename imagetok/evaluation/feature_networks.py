"""Feature networks, in whose features the distances between sets of images are measured."""

import importlib
import inspect
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from imagetok.errors import ConfigError
from imagetok.evaluation.cifar_resnet import CLASSES, WIDTHS, CIFARResNet
from imagetok.evaluation.original_vgg import PREPROCESSING, URL, build_vgg16, to_vgg16
from imagetok.evaluation.published_weights import (
    as_own_file,
    hash_of,
    load_weights,
    published,
    read_weights,
    refusing_unfit_weights,
)
from imagetok.images import to_unit_range
from imagetok.optional import require
from imagetok.plugins.registry import FEATURE_NETWORKS, NAME, Registration, find, hint_for
from imagetok.plugins.registry import registered as registered_parts
from imagetok.plugins.sections import build_part
from imagetok.suggestions import nearest, shown

HELP = (
    "inception, vgg16, torchvision:MODEL, each also with =FILE for local weights; "
    "cifar-resnet=FILE; python:MODULE:FUNCTION; NAME or NAME=FILE of a plugin"
)
_INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)


class Features(NamedTuple):
    """Outputs of a feature network for a batch."""

    vectors: Float[Tensor, "B F"]
    logits: Float[Tensor, "B C"] | None
    """Logits of a classifier; None for other networks."""


class FeatureNetwork(nn.Module):
    """A feature network, with the identity that is recorded with every measure."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        run: Callable[[Tensor], Features],
        preprocessing: str,
        class_names: tuple[str, ...] = (),
        learnable: Callable[[Tensor], Features] | None = None,
    ):
        """class_names: class names of a classifier, in the order of its logits; () if unknown.
        learnable: like `run`, for images (B, 3, H, W) with pixels in [0, 1] and a gradient; None if
        the network can be no loss of training."""
        super().__init__()
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.preprocessing = preprocessing
        self.class_names = class_names
        self.sha256 = hash_of(model)
        self._run = run
        self._learnable = learnable

    @torch.no_grad()
    def forward(self, images: UInt8[Tensor, "B C H W"]) -> Features:
        """Compute features of images, pixels in 0..255; grey images are expanded to 3 channels."""
        return self._run(images.expand(-1, 3, -1, -1))

    def learnable(self, images: Float[Tensor, "B C H W"]) -> Features:
        """Compute features that have a gradient, of pixels in [0, 1]; grey images are expanded.

        Their preprocessing is a resize to the network's size, without a crop, and its
        normalisation. Raises ConfigError for a network without such a form.
        """
        if self._learnable is None:
            raise ConfigError(
                f"{self.name}: measures stored pixels only, so it can be no loss of training; use "
                "lpips:vgg, torchvision:MODEL, cifar-resnet=FILE or a network of your own"
            )
        return self._learnable(images.expand(-1, 3, -1, -1))

    def identity(self) -> dict[str, str]:
        """Return what two values must have in common to be comparable: network and weights."""
        return {
            "network": self.name,
            "network_sha256": self.sha256,
            "preprocessing": self.preprocessing,
        }


NetworkSpecs = str | FeatureNetwork | Sequence[str | FeatureNetwork]
"""One or several networks, each a FeatureNetwork or a spec of `open_features`."""


def open_networks(given: NetworkSpecs, device: torch.device) -> list[FeatureNetwork]:
    """Open feature networks on a device, in order; see `open_features`."""
    several = [given] if isinstance(given, str | FeatureNetwork) else given
    return [(open_features(one) if isinstance(one, str) else one).to(device) for one in several]


def open_features(spec: str) -> FeatureNetwork:
    """Open the network that `--features` names: one of HELP.

    `vgg16` is the original network, in which precision and recall were defined; `torchvision:vgg16`
    was trained later and has other inputs. Weights of `inception`, `vgg16` and `torchvision:MODEL`
    are read from torch.hub's folder, or downloaded to it; their hash is checked, and no code in
    them is run. A python FUNCTION has no arguments and returns an nn.Module that maps
    (B, 3, H, W) in [0, 1] to features (B, F).

    Raises ConfigError for an unknown name, InputError for a wrong file of weights, ResourceError if
    weights are unavailable or the library of the network is not installed.
    """
    if spec.startswith("python:"):
        return _user_network(spec)
    name, _, file = spec.partition("=")
    path = Path(file) if file else None
    if name == "inception":
        return _inception(path)
    if name == "cifar-resnet" and path is not None:
        return _cifar_resnet(path)
    if name == "vgg16":
        return _vgg16(path)
    if name.startswith("torchvision:"):
        return _torchvision(name.removeprefix("torchvision:"), path)
    registered = find("features", name) if re.fullmatch(NAME, name) else None
    if registered is not None:
        return _registered(registered, spec, path)
    hint = hint_for(name, [*FEATURE_NETWORKS, *(own.name for own in registered_parts("features"))])
    raise ConfigError(f"--features: expected {HELP}; found {shown(spec)}{hint}")


def _inception(path: Path | None) -> FeatureNetwork:
    """Open the Inception network of the original FID, with the preprocessing of its TF graph."""
    fidelity = require(
        "torch_fidelity.feature_extractor_inceptionv3",
        extra="eval",
        purpose="the Inception network",
    )
    state = published(_INCEPTION, path, option="--features inception", exact=True)
    with as_own_file(state) as own:  # the library unpickles the file that it is given
        model = fidelity.FeatureExtractorInceptionV3(
            "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=own
        )
    return FeatureNetwork(
        "inception", model, lambda images: Features(*model(images)), "TF1 bilinear 299"
    )


def _vgg16(path: Path | None) -> FeatureNetwork:
    """Open the VGG-16 of improved precision and recall, which are computed from its last inputs."""
    state = published(URL, path, option="--features vgg16", exact=True)
    with refusing_unfit_weights(path or Path(URL).name):
        model = build_vgg16(state)
    return FeatureNetwork("vgg16", model, before_last_layer(model, to_vgg16), PREPROCESSING)


def _cifar_resnet(path: Path) -> FeatureNetwork:
    state = read_weights(path)
    blocks = len({name.split(".")[1] for name in state if name.startswith("layer1.")})
    model = CIFARResNet(max(1, blocks))
    load_weights(model, state, path)
    name = f"cifar-resnet{2 * len(WIDTHS) * blocks + 2}"
    run, learnable = (
        before_last_layer(model, prepare) for prepare in (to_unit_range, nn.Identity())
    )
    return FeatureNetwork(name, model, run, "none", CLASSES, learnable)


def _torchvision(name: str, path: Path | None) -> FeatureNetwork:
    """Open a torchvision classifier: features before its last layer, with its preprocessing."""
    import torchvision.models as models

    known = models.list_models(module=models)
    if name not in known:
        near = nearest(name, known, count=3) or ["resnet50", "vgg16"]
        raise ConfigError(
            f"--features: torchvision has no classifier {name!r}; it has {', '.join(near)}, ...; "
            "all names: torchvision.models.list_models(module=torchvision.models)"
        )
    entry = published_entry(name)
    state = published(entry.url, path, option=f"--features torchvision:{name}")
    with refusing_unfit_weights(path or Path(entry.url).name):
        model = build_published(name, state)
    prepare = entry.transforms()
    if name == "vgg16":
        name = "torchvision:vgg16"  # the plain name is that of the original network
    run, learnable = (before_last_layer(model, by) for by in (prepare, _normalised(prepare)))
    return FeatureNetwork(name, model, run, repr(prepare), learnable=learnable)


def _normalised(prepare: Any) -> Callable[[Tensor], Tensor]:
    """Return a resize to the size of torchvision's preprocessing, and its normalisation."""
    from torchvision.transforms.v2 import functional

    def run(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 h w"]:
        size = 2 * list(prepare.crop_size)[:1]
        if list(images.shape[2:]) != size:
            images = functional.resize(images, size, antialias=True)
        return functional.normalize(images, prepare.mean, prepare.std)

    return run


def published_entry(name: str) -> Any:
    """Return torchvision's entry of a model's ImageNet weights: version 1, or else the default."""
    import torchvision.models as models

    entries: Any = models.get_model_weights(name)
    return getattr(entries, "IMAGENET1K_V1", entries.DEFAULT)


def build_published(name: str, state: dict[str, Tensor]) -> nn.Module:
    """Build a torchvision model with published weights, using torchvision's own builder.

    The builder adapts the model to the weights: image size, input normalisation, older names of
    tensors. Raises RuntimeError or ValueError for weights of another network.
    """
    import torchvision.models as models

    tensors = OrderedDict(state)
    # Weights without versions (.safetensors) have the current form; MNASNet needs the number.
    versions = getattr(state, "_metadata", None) or {"": {"version": 2}}
    vars(tensors)["_metadata"] = versions
    entry = published_entry(name)
    given = object.__new__(type(entry))  # a copy of the entry that downloads and unpickles nothing
    vars(given).update(vars(entry), get_state_dict=lambda **_: tensors)
    return models.get_model(name, weights=given)


def _user_network(spec: str) -> FeatureNetwork:
    _, module, function = [*spec.split(":"), "", ""][:3]
    try:
        model = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"--features {spec}: expected python:MODULE:FUNCTION of a function "
            f"without arguments that returns a torch module; {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"--features {spec}: expected a torch module, found {type(model)}")
    return _of_pixels(f"{module}:{function}", model)


def _of_pixels(name: str, model: nn.Module) -> FeatureNetwork:
    """Return the network of a module that maps pixels in [0, 1] to features."""

    def learnable(images: Tensor) -> Features:
        return Features(model(images), None)

    return FeatureNetwork(
        name, model, lambda x: learnable(to_unit_range(x)), "none", learnable=learnable
    )


def _registered(registration: Registration, spec: str, path: Path | None) -> FeatureNetwork:
    """Open a registered network, which may be an nn.Module or a FeatureNetwork with logits."""
    given = () if path is None else (path,)
    try:
        inspect.signature(registration.build).bind(*given)
    except TypeError:
        form = "NAME" if given else "NAME=FILE"
        raise ConfigError(
            f"--features {spec}: expected {form.replace('NAME', registration.name)}, as what is "
            "registered under this name takes its weights"
        ) from None
    model = build_part(registration, nn.Module, *given)
    if isinstance(model, FeatureNetwork):
        return model
    return _of_pixels(registration.name, model)


def before_last_layer(
    model: nn.Module, prepare: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Features]:
    """Return a function that computes the inputs of a classifier's last layer, and its logits.

    If the last layer is a convolution, as in SqueezeNet, its inputs are averaged over positions.
    """
    *_, last = (part for part in model.modules() if isinstance(part, nn.Linear | nn.Conv2d))

    def run(images: Tensor) -> Features:
        seen: list[Tensor] = []
        hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = model(prepare(images))
        finally:
            hook.remove()
        vectors = seen[0]
        return Features(vectors.mean(dim=(2, 3)) if vectors.ndim == 4 else vectors, logits)

    return run
