"""Checks that a measurement follows a published protocol, each with expected and found values."""

from collections.abc import Sequence

from imagetok.data import ImageDataset
from imagetok.errors import ConfigError
from imagetok.evaluation.feature_networks import FeatureNetwork
from imagetok.images import ImageContract
from imagetok.protocols import PROTOCOLS, PUBLISHED_SAMPLES, Protocol
from imagetok.suggestions import did_you_mean


def sample_count(num_images: int) -> int:
    """Return how many samples to compare with `num_images` reference images, as papers do."""
    return min(PUBLISHED_SAMPLES, num_images)


def protocol_named(name: str) -> Protocol:
    """Return a protocol; raise ConfigError for an unknown name."""
    if name not in PROTOCOLS:
        raise ConfigError(
            f"--protocol: expected one of {', '.join(PROTOCOLS)}, found {name!r}"
            f"{did_you_mean(name, PROTOCOLS)}"
        )
    return PROTOCOLS[name]


def with_crop(image: ImageContract, protocol: Protocol) -> ImageContract:
    """Return a tokenizer's image contract with the protocol's crop.

    Raises ConfigError for a tokenizer of images of another mode or size.
    """
    for key in ("mode", "height", "width"):
        fixed = (protocol.image or {}).get(key)
        _expect(protocol, f"the tokenizer's image.{key}", fixed, getattr(image, key))
    return ImageContract.model_validate({**image.model_dump(), **(protocol.image or {})})


def check_reconstructions(protocol: Protocol, images: ImageDataset) -> None:
    """Raise ConfigError unless these are the images whose reconstructions are measured."""
    if not protocol.has_reconstructions:
        raise ConfigError(
            f"--protocol {protocol.name}: measures samples; add --samples DIR, and --features "
            f"{protocol.networks[0]}"
        )
    _check_images(protocol, images, protocol.reconstruction_split, protocol.num_reconstructions)


def check_samples(
    protocol: Protocol,
    num_samples: int,
    reference: ImageDataset,
    networks: Sequence[FeatureNetwork],
) -> None:
    """Raise ConfigError unless samples, reference images and networks are the protocol's."""
    _check_images(protocol, reference, protocol.reference_split, protocol.num_reference)
    _expect(protocol, "samples", protocol.num_samples, num_samples)
    names = [network.name for network in networks]
    if not set(protocol.networks) <= set(names):
        raise _error(protocol, "--features", ", ".join(protocol.networks), ", ".join(names))


def _check_images(
    protocol: Protocol, images: ImageDataset, split: str | None, count: int | None
) -> None:
    where = f"--data {images.name}:{images.split}"
    _expect(protocol, f"{where}: split", split, images.split)
    _expect(protocol, f"{where}: images", count, len(images))
    for key, value in (protocol.image or {}).items():
        _expect(protocol, f"{where}: {key}", value, getattr(images.contract, key))


def _expect(protocol: Protocol, what: str, expected: object, found: object) -> None:
    if expected is not None and found != expected:
        raise _error(protocol, what, _text(expected), _text(found))


def _error(protocol: Protocol, what: str, expected: str, found: str) -> ConfigError:
    return ConfigError(
        f"--protocol {protocol.name}: {what}: expected {expected}, found {found or 'none'}; "
        "measure as the protocol says, or omit --protocol"
    )


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
