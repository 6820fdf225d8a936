"""LPIPS, a perceptual distance from features of an ImageNet network (Zhang et al. 2018)."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from imagetok.batch_size import images_at_once
from imagetok.data import ImageBatch, ImageDataset
from imagetok.data.loader_workers import read_ahead
from imagetok.distributed.peers import check_peers
from imagetok.errors import ConfigError, InputError
from imagetok.evaluation.feature_distances import FEATURE_BATCH, reconstruct_bytes
from imagetok.evaluation.pace import Pace
from imagetok.evaluation.published_weights import (
    hash_of,
    is_checked,
    load_weights,
    published,
    read_weights,
)
from imagetok.host_copy import Started, one_behind
from imagetok.images import to_unit_range
from imagetok.optional import require
from imagetok.precision import full_float32
from imagetok.processes import device_of, process_state, without_waiting
from imagetok.suggestions import did_you_mean
from imagetok.tokenizers import Autoencoder
from imagetok.tokenizers.deferred_checks import deferred_checks, refuse_unless_finite


class _Backbone(NamedTuple):
    model: str
    """Name of the model in torchvision."""
    ends: tuple[int, ...]
    """Ends of the slices of its `features`: after the ReLUs that LPIPS uses."""
    smallest: int
    """Smallest side length of an image in pixels, so that no feature map is empty."""


BACKBONES = {
    "alex": _Backbone("alexnet", (2, 5, 8, 10, 12), 31),
    "vgg": _Backbone("vgg16", (4, 9, 16, 23, 30), 16),
}
# torchvision's normalisation for pixels in [-1, 1], rounded as in the authors' code.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class PerceptualDistance(nn.Module):
    """LPIPS version 0.1 with one backbone (Zhang et al. 2018, eq. 1).

    Call it with two batches of uint8 images; `identity` states what its values depend on.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, name: str, backbone: nn.Sequential, heads: list[Tensor], checked: bool):
        """heads: per layer, a weight >= 0 for each channel. checked: whether the hash of the
        backbone was checked; if not, the name of the measure ends with `_unchecked`."""
        super().__init__()
        self.name = f"lpips_{name}" if checked else f"lpips_{name}_unchecked"
        self.smallest = BACKBONES[name].smallest
        cuts = pairwise((0, *BACKBONES[name].ends))
        self.slices = nn.ModuleList(backbone[start:end] for start, end in cuts)
        self.heads = nn.ParameterList(heads)
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None], persistent=False)
        self.eval().requires_grad_(False)
        self.sha256 = hash_of(self)

    @torch.no_grad()
    def forward(
        self, x: UInt8[Tensor, "B C H W"], y: UInt8[Tensor, "B C H W"]
    ) -> Float[Tensor, " B"]:
        """Return the distance of each pair of images x[i], y[i], pixels in 0..255.

        Grey images are expanded to three equal channels.
        Raises InputError for images too small for the backbone.
        """
        layers = self.layers(to_unit_range(torch.cat([x, y])))
        first, second = zip(*(layer.chunk(2) for layer in layers), strict=True)
        return self.between(first, second)

    def layers(self, images: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B _C _h _w"]]:
        """Return the features of each layer, of unit length at every position, with their gradient.

        images: pixels in [0, 1]; grey images are expanded. Raises InputError for too small ones.
        """
        if min(images.shape[2:]) < self.smallest:
            raise InputError(
                f"{self.name}: expected images of at least {self.smallest} x {self.smallest} "
                f"pixels, found {images.shape[2]} x {images.shape[3]}"
            )
        h, found = (2 * images.expand(-1, 3, -1, -1) - 1 - self.shift) / self.scale, []
        for part in self.slices:
            h = part(h)
            wide = h.float()  # in half precision, squares of features overflow or vanish
            found.append(wide / (wide.square().sum(dim=1, keepdim=True) + 1e-8).sqrt())
        return found

    def between(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Float[Tensor, " B"]:
        """Return the distances of pairs of images from their `layers`."""
        total = first[0].new_zeros(len(first[0]))
        for one, other, head in zip(first, second, self.heads, strict=True):
            weighted = (one - other).square() * head[:, None, None]
            total = total + weighted.sum(dim=1).mean(dim=(1, 2))
        return total

    def identity(self) -> dict[str, str]:
        """Return what two values must have in common to be comparable: network and weights."""
        return {
            "network": self.name,
            "network_sha256": self.sha256,
            "preprocessing": "none",
        }


PerceptualSpecs = str | PerceptualDistance | Sequence[str | PerceptualDistance]
"""One or several perceptual distances, each a PerceptualDistance or a spec of `open_perceptual`."""


def open_distances(given: PerceptualSpecs, device: torch.device) -> list[PerceptualDistance]:
    """Open perceptual distances on a device, in order; see `open_perceptual`."""
    several = [given] if isinstance(given, str | PerceptualDistance) else given
    return [(open_perceptual(one) if isinstance(one, str) else one).to(device) for one in several]


def open_perceptual(spec: str, option: str = "--lpips ") -> PerceptualDistance:
    """Open the distance that `--lpips` names: `alex` or `vgg`, each also with `=FILE` for weights.

    The backbone's weights are torchvision's, read from torch.hub's folder or downloaded to it; the
    weights of the layers come with torchmetrics. Hashes are checked, and no code in the files is
    run. A .safetensors FILE has no published hash; its measure is `lpips_NAME_unchecked`. option:
    what stands before the name where it is given, for messages.

    Raises ConfigError for another name, InputError for a wrong file, ResourceError if weights are
    unavailable or torchmetrics is not installed.
    """
    import torchvision.models as models

    name, _, file = spec.partition("=")
    if name not in BACKBONES:
        hint = did_you_mean(name, BACKBONES)
        raise ConfigError(
            f"{option.rstrip(' :')}: expected alex or vgg, also with =FILE; found {spec!r}{hint}"
        )
    heads = _heads(name)
    architecture = BACKBONES[name].model
    weights: Any = models.get_model_weights(architecture)
    url = weights.IMAGENET1K_V1.url
    path = Path(file) if file else None
    state = published(url, path, option=f"{option}{name}")
    with torch.device("meta"):  # does not allocate the classifier of 500 MB
        features: Any = models.get_model(architecture).features
    features = features.to_empty(device="cpu")
    kept = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
    load_weights(features, kept, file or Path(url).name)
    return PerceptualDistance(name, features, heads, is_checked(path))


def _heads(name: str) -> list[Tensor]:
    """Load the authors' weights of version 0.1, one vector per layer."""
    package = files(require("torchmetrics.functional.image", extra="eval", purpose="LPIPS"))
    state = read_weights(Path(str(package / "lpips_models" / f"{name}.pth")))
    return [state[f"lin{i}.model.1.weight"].flatten() for i in range(len(BACKBONES[name].ends))]


@full_float32()
def mean_distance(
    distance: PerceptualDistance,
    model: Autoencoder,
    dataset: ImageDataset,
    pace: Pace | None = None,
) -> float:
    """Return the mean LPIPS between all images and their reconstructions, both as uint8 pixels.

    pace: how images are read. The processes of a distributed run share the batches. Raises
    ConfigError for label maps.
    """
    if model.image.mode == "labels":
        raise ConfigError("--lpips: expected a model of images, found one of label maps")
    state, device = process_state(), device_of(distance)
    change = reconstruct_bytes(model)
    size = images_at_once(FEATURE_BATCH, model.image)
    starts = range(0, len(dataset), size)
    mine = starts[state.process_index :: state.num_processes]
    pieces = [range(start, min(start + size, len(dataset))) for start in mine]

    def started(read: Iterator[ImageBatch]) -> Iterator[Started[int]]:
        for start in mine:
            check_peers()
            images = without_waiting(next(read).images, device)
            with deferred_checks() as checks:
                values = distance(images, change(images))
            yield Started([values, checks.finite(len(images), device)], start)

    found: list[tuple[int, Tensor]] = []
    workers = (pace or Pace()).workers(dataset, device)
    with closing(read_ahead(dataset.read, pieces, workers, device)) as read:
        for (values, finite), start in one_behind(started(read)):
            refuse_unless_finite(finite)
            found.append((start, values))
    if state.num_processes > 1:
        found = gather_object(found)
    ordered = [values for _, values in sorted(found, key=lambda part: part[0])]
    return float(torch.cat(ordered).double().mean())
