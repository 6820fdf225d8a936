"""A tokenizer of convolutions alone at other sizes than its own, and the refusal of all others."""

from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from PIL import Image

import imagetok
from imagetok import open_codes
from imagetok.config import validate
from imagetok.errors import ConfigError, InputError
from imagetok.networks import ConvConfig, build_network
from imagetok.networks.base import NetworkSection
from imagetok.plugins import loading
from imagetok.seeding import reseed_global
from imagetok.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer

Build = Callable[..., Tokenizer]
NETWORKS = {
    "conv": {"kind": "conv", "width": 8, "groups": 2, "blocks": 1},
    "sonnet": {"kind": "sonnet", "width": 8, "residual_width": 4},
    "sqvae": {"kind": "sqvae", "width": 8},
    "kaokore": {"kind": "kaokore", "width": 8},
    "vqgan": {"kind": "vqgan", "width": 8, "multipliers": [1, 2], "norm_groups": 4},
    "vqvae2": {"kind": "vqvae2", "width": 8, "residual_width": 4},
}


def build_with(network: dict) -> Tokenizer:
    quantizer = {"kind": "vqvae", "num_codes": 16, "code_dim": 4}
    is_hierarchy = network["kind"] == "vqvae2"
    middle = {"quantizers": [quantizer] * 2} if is_hierarchy else {"quantizer": quantizer}
    tree = {"image": {"height": 16, "width": 16}, "network": network, **middle}
    reseed_global(0)
    return build_tokenizer(validate(tree, TokenizerConfig, "test"))


def images(height: int, width: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", NETWORKS)
def test_another_size_has_the_grids_of_its_stride_and_the_same_weights(kind: str) -> None:
    own = build_with(NETWORKS[kind])
    sized = own.at_size(24, 40)
    strides = [16 // h for h, _ in own.grids]
    assert sized.grids == tuple((24 // s, 40 // s) for s in strides)
    assert sized.fingerprint == own.fingerprint and own.image.height == 16
    codes = sized.encode(images(24, 40))
    assert [tuple(level.shape[1:]) for level in codes] == list(sized.grids)
    decoded = sized.decode(codes)
    assert decoded.shape == (2, 3, 24, 40)
    assert torch.equal(decoded, own.at_grids(sized.grids).decode(codes))
    assert own.at_size(16, 16) is own and own.at_grids(own.grids) is own
    parameters = zip(own.parameters(), sized.parameters(), strict=True)
    assert all(a is b for a, b in parameters)


def test_the_middle_of_a_larger_image_has_the_codes_of_that_middle() -> None:
    """Far from its border, a code depends on the pixels around it alone."""
    own = build_with(NETWORKS["conv"])
    large = images(64, 64)
    codes = own.at_size(64, 64).encode(large)[0]
    part = own.at_size(48, 48).encode(large[:, :, 8:56, 8:56])[0]
    assert torch.equal(codes[:, 12:20, 12:20], part[:, 8:16, 8:16])


def test_a_size_that_does_not_fit_is_refused(build: Build) -> None:
    tokenizer = build()
    with pytest.raises(ConfigError, match=r"multiples of 2, .*found 9 x 12.*is 8 x 12"):
        tokenizer.at_size(9, 12)
    with pytest.raises(ConfigError, match="height: expected a whole number of 1 or more"):
        tokenizer.at_size(0, 12)
    with pytest.raises(InputError, match=r"grids 4 x 6, .*found 4 x 6 and 8 x 12"):
        tokenizer.at_grids([(4, 6), (8, 12)])
    with pytest.raises(InputError, match="found 12 x 16 pixels"):  # asked for explicitly alone
        tokenizer.encode(images(12, 16))


class FixedConfig(NetworkSection):
    """A network of one's own that does not declare `any_size`."""

    kind: Literal["fixed-size-test"] = "fixed-size-test"
    downsampling: ClassVar[int] = 2


def test_a_network_of_a_fixed_size_is_refused_by_name(monkeypatch) -> None:
    monkeypatch.setattr(loading, "registrations", {})
    inner = ConvConfig(width=8, groups=2, blocks=1)

    def build_inner(config, spec):
        return build_network(
            inner, spec.image_channels, spec.encoder_channels, spec.decoder_channels
        )

    imagetok.register(FixedConfig, build_inner)
    tokenizer = build_with({"kind": "fixed-size-test"})
    with pytest.raises(InputError, match=r"'fixed-size-test'.*16 x 16.*found 24 x 24"):
        tokenizer.at_size(24, 24)
    assert tokenizer.at_size(16, 16) is tokenizer
    monkeypatch.setattr(FixedConfig, "any_size", True)
    assert tokenizer.at_size(24, 24).grids == ((12, 12),)


def test_codes_of_another_size_are_a_dataset_that_decodes_to_that_size(build, tmp_path) -> None:
    tokenizer = build()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    pixels = (255 * images(20, 30, 3)).byte()
    done = imagetok.encode(tokenizer, pixels, tmp_path / "codes", size=(16, 24), progress=False)
    assert done.dataset.grids == ((8, 12),)
    assert (done.dataset.plan.image.height, done.dataset.plan.image.width) == (16, 24)
    decoded = imagetok.decode(tokenizer, tmp_path / "codes", tmp_path / "png", progress=False)
    assert all(Image.open(file).size == (24, 16) for file in decoded.files)
    again = open_codes(tmp_path / "codes")
    assert again.fingerprint == tokenizer.fingerprint
    sized = tokenizer.at_size(16, 24)
    expected = imagetok.encode(sized, pixels, tmp_path / "same", progress=False).dataset
    assert again.manifest.root == expected.manifest.root


def test_reconstructing_at_native_size_crops_to_the_stride(build) -> None:
    pictures = [np.full((11, 7, 3), 9, np.uint8), np.full((6, 13, 3), 99, np.uint8)]
    found = imagetok.reconstruct(build(), pictures, size="native")
    assert found.originals.shape == found.reconstructions.shape == (2, 3, 10, 12)
    assert torch.equal(found.originals[0, :, :10, :6], torch.full((3, 10, 6), 9 / 255))
    assert (found.originals[1, :, 6:] == 1).all() and (found.reconstructions[1, :, 6:] == 1).all()
    with pytest.raises(InputError, match="at least 2 x 2 pixels, one code, found 1 x 9"):
        imagetok.reconstruct(build(), np.zeros((1, 9, 3), np.uint8), size="native")
