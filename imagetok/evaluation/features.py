"""Feature networks: what distances between sets of images are measured in, and their identity."""

import hashlib
import importlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from imagetok.errors import ConfigError, InputError, ResourceError
from imagetok.evaluation.cifar_resnet import WIDTHS, CIFARResNet
from imagetok.images import to_unit_range

HELP = (
    "inception, vgg16, torchvision:MODEL, each with =FILE for weights of your own place; "
    "cifar-resnet=FILE; python:MODULE:FUNCTION"
)
_INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)


class Features(NamedTuple):
    """What a network says of a batch."""

    vectors: Float[Tensor, "B F"]
    logits: Float[Tensor, "B C"] | None
    """Of a classifier."""


class FeatureNetwork(nn.Module):
    """A network and its identity, which goes with every number: name, hash of its tensors."""

    def __init__(
        self, name: str, model: nn.Module, run: Callable[[Tensor], Features], preprocessing: str
    ):
        super().__init__()
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.preprocessing = preprocessing
        self.sha256 = _hash_of(model)
        self._run = run

    @torch.no_grad()
    def forward(self, images: UInt8[Tensor, "B C H W"]) -> Features:
        """Of bytes 0..255; grey images are taken as three equal channels."""
        return self._run(images.expand(-1, 3, -1, -1))

    def identity(self) -> dict[str, str]:
        """What two numbers must share to be compared, as far as the network goes."""
        return {
            "network": self.name,
            "network_sha256": self.sha256,
            "preprocessing": self.preprocessing,
        }


def open_features(spec: str) -> FeatureNetwork:
    """The network that `--features` names: one of HELP.

    Weights of `inception`, `vgg16` and `torchvision:MODEL` are looked for in torch.hub's folder,
    else fetched into it; their hash is checked, and no code in them is run. A python FUNCTION takes
    nothing and gives an nn.Module from (B, 3, H, W) in [0, 1] to features (B, F).
    Raises ConfigError for an unknown name, InputError for a file that is not what it should be,
    ResourceError when weights cannot be had.
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
        return _torchvision("vgg16", path)
    if name.startswith("torchvision:"):
        return _torchvision(name.removeprefix("torchvision:"), path)
    raise ConfigError(f"--features: expected {HELP}; found {spec!r}")


def _inception(path: Path | None) -> FeatureNetwork:
    """The Inception network of the original FID, with the preprocessing of its TensorFlow graph."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise ConfigError(
            'the Inception network needs torch-fidelity: pip install "imagetok[eval]"'
        ) from None
    state = _read_weights(path or _fetch(_INCEPTION), "6726825d", standard=True)
    with tempfile.NamedTemporaryFile(suffix=".pth") as safe:
        torch.save(state, safe)  # the class unpickles its file: it gets one that was written here
        safe.flush()
        model = FeatureExtractorInceptionV3(
            "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=safe.name
        )
    return FeatureNetwork(
        "inception", model, lambda images: Features(*model(images)), "TF1 bilinear 299"
    )


def _cifar_resnet(path: Path) -> FeatureNetwork:
    state = _read_weights(path)
    blocks = len({name.split(".")[1] for name in state if name.startswith("layer1.")})
    model = CIFARResNet(max(1, blocks))
    _load(model, state, path)
    name = f"cifar-resnet{2 * len(WIDTHS) * blocks + 2}"
    return FeatureNetwork(name, model, _before_last_linear(model, to_unit_range), "none")


def _torchvision(name: str, path: Path | None) -> FeatureNetwork:
    """Features before the last linear layer, images prepared as the model's own weights ask."""
    import torchvision.models as models

    if name not in models.list_models(module=models):
        raise ConfigError(f"--features: torchvision has no classifier {name!r}")
    weights: Any = models.get_model_weights(name)
    weights = weights.IMAGENET1K_V1
    prefix, standard = weights.url.rsplit("-", 1)[1][:8], name == "vgg16"
    state = _read_weights(path or _fetch(weights.url), prefix, standard)
    model = models.get_model(name)
    _load(model, state, path or Path(weights.url).name)
    prepare = weights.transforms()
    return FeatureNetwork(name, model, _before_last_linear(model, prepare), repr(prepare))


def _user_network(spec: str) -> FeatureNetwork:
    _, module, function = [*spec.split(":"), "", ""][:3]
    try:
        model = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"--features {spec}: expected python:MODULE:FUNCTION; {error}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"--features {spec}: expected a torch module, found {type(model)}")
    return FeatureNetwork(
        f"{module}:{function}", model, lambda x: Features(model(to_unit_range(x)), None), "none"
    )


def _before_last_linear(
    model: nn.Module, prepare: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Features]:
    """What goes into a classifier's last linear layer, and its logits."""
    *_, last = (part for part in model.modules() if isinstance(part, nn.Linear))
    seen: list[Tensor] = []
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    def run(images: Tensor) -> Features:
        logits = model(prepare(images))
        return Features(seen.pop(), logits)

    return run


def _fetch(url: str) -> Path:
    """A file of torch.hub's folder, downloaded if it is not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not path.is_file():
        prefix = path.stem.rsplit("-", 1)[1]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=False)
        except (OSError, RuntimeError) as error:
            raise ResourceError(
                f"cannot fetch {url}: {error}; without a network, put that file at {path}, or name "
                "its place: --features NAME=FILE"
            ) from error
    return path


def _read_weights(path: Path, prefix: str = "", standard: bool = False) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file; a .pth's sha256 starts with `prefix`.

    standard: so does that of any file, because measures get the papers' plain names.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read weights: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    is_other = path.suffix == ".safetensors" and not standard  # weights of the user's own
    if not digest.startswith(prefix) and not is_other:
        raise InputError(
            f"{path}: expected the published file, whose sha256 starts with {prefix}, "
            f"found {digest[:8]}"
        )
    try:
        if path.suffix == ".safetensors":
            return load(content)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a file of weights: {error}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]  # a checkpoint, as training scripts write them
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: expected names and tensors, found something else")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _load(model: nn.Module, state: dict[str, Tensor], path: Path | str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path}: weights of another network: {str(error)[:300]}") from error


def _hash_of(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
