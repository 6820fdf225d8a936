"""A registered network is run once when it is built, which names shapes that do not fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import imagetok
from cli.main import _run
from imagetok.config import load_config
from imagetok.errors import ConfigError
from imagetok.networks import NetworkSection, NetworkSpec
from imagetok.tokenizers import build_tokenizer
from imagetok.tokenizers.build import build_skeleton
from imagetok.training.config import TokenizerRun

DIGITS = Path(__file__).parents[3] / "configs" / "digits"
WHAT = "network 'halves' (test_probed_networks:Halves): "


class Halves(NetworkSection):
    kind: Literal["halves"] = "halves"
    factor: Any = 2

    @property
    def downsampling(self) -> int:
        """Pixels per code along each side."""
        return 1 // 0 if self.factor == "fails" else self.factor


class Counted(nn.Module):
    """Calls a module and counts; `change` is what is broken."""

    def __init__(self, inner: nn.Module, change: Callable[[Tensor], Any] = lambda out: out):
        super().__init__()
        self.inner, self.change, self.count = inner, change, 0
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        self.count += 1
        self.get_buffer("calls").add_(1)
        return self.change(self.inner(x) + torch.rand(()) * 0)


def pair(spec: NetworkSpec) -> tuple[nn.Module, nn.Module]:
    encoder = nn.Conv2d(spec.image_channels, spec.encoder_channels, 2, stride=2)
    decoder = nn.ConvTranspose2d(spec.decoder_channels, spec.image_channels, 2, stride=2)
    return Counted(encoder), Counted(decoder)


def config(factor: Any = 2) -> TokenizerRun:
    section = {"kind": "halves", "factor": factor}
    return load_config(DIGITS / "vqvae.yaml", TokenizerRun, {"tokenizer.network": section})


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as refusal:
        call()
    assert WHAT in str(refusal.value)
    return str(refusal.value).partition(WHAT)[2]


def test_the_run_changes_neither_weights_nor_global_random_state():
    imagetok.register(Halves, lambda section, spec: pair(spec))
    tokenizer_config = config().tokenizer
    torch.manual_seed(3)
    probed = build_tokenizer(tokenizer_config)
    drawn = torch.rand(())
    torch.manual_seed(3)
    plain = build_tokenizer_without_run(tokenizer_config)
    assert torch.equal(drawn, torch.rand(()))
    states = probed.state_dict(), plain.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert vars(probed.encoder)["count"] == vars(probed.decoder)["count"] == 0
    assert all(value.device.type == "cpu" for value in states[0].values())


def build_tokenizer_without_run(tokenizer_config: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imagetok.networks.build.check_shapes", lambda *given: None)
        return build_tokenizer(tokenizer_config)


def test_code_that_does_not_run_without_values_is_run_with_them():
    def build(section: Halves, spec: NetworkSpec) -> tuple[nn.Module, nn.Module]:
        encoder, decoder = pair(spec)
        return Counted(encoder, lambda out: out * float(out.sum() * 0 + 1)), decoder

    imagetok.register(Halves, build)
    tokenizer_config = config().tokenizer
    assert build_tokenizer(tokenizer_config).grids == ((8, 8),)
    # A skeleton has no values at all, and loads as before.
    skeleton = build_skeleton(tokenizer_config.model_dump(mode="json"), "a")
    assert {value.device.type for value in skeleton.parameters()} == {"meta"}


def test_a_network_of_other_channels_is_refused_on_the_cpu_too():
    def build(section: Halves, spec: NetworkSpec) -> tuple[nn.Module, nn.Module]:
        encoder, decoder = pair(spec)
        return Counted(encoder, lambda out: out[:, : 5 + int(out.sum() * 0)]), decoder

    imagetok.register(Halves, build)
    assert refused(lambda: build_tokenizer(config().tokenizer)) == (
        "encoder: expected it to map a tensor of shape (2, 1, 16, 16) to (2, 16, 8, 8), found "
        "(2, 5, 8, 8)"
    )


@pytest.mark.parametrize(
    ("encoder", "decoder", "said"),
    [
        (
            lambda out: out[..., 1:],
            lambda out: out,
            "encoder: expected it to map a tensor of shape (2, 1, 16, 16) to (2, 16, 8, 8), found "
            "(2, 16, 8, 7)",
        ),
        (
            lambda out: (out, out),
            lambda out: out,
            "encoder: expected it to map a tensor of shape (",
        ),
        (
            lambda out: out,
            lambda out: out.repeat(1, 3, 1, 1),
            "decoder: expected it to map a tensor of shape (2, 16, 8, 8) to (2, 1, 16, 16), found "
            "(2, 3, 16, 16)",
        ),
        (
            lambda out: out.view(-1, 7),
            lambda out: out,
            "encoder on a tensor of shape (2, 1, 16, 16) fails: RuntimeError: shape '[-1, 7]' is",
        ),
        (
            lambda out: out,
            lambda out: out.nothing,
            "decoder on a tensor of shape (2, 16, 8, 8) fails: AttributeError: 'Tensor' object has",
        ),
    ],
)
def test_a_network_of_other_shapes_is_refused(encoder, decoder, said):
    def build(section: Halves, spec: NetworkSpec) -> tuple[nn.Module, nn.Module]:
        first, last = pair(spec)
        return Counted(first, encoder), Counted(last, decoder)

    imagetok.register(Halves, build)
    assert refused(lambda: build_tokenizer(config().tokenizer)).startswith(said)


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (2.0, "downsampling: expected an int >= 1, pixels per code along each side, found 2.0"),
        (True, "downsampling: expected an int >= 1, pixels per code along each side, found True"),
        (0, "downsampling: expected an int >= 1, pixels per code along each side, found 0"),
        (-2, "downsampling: expected an int >= 1, pixels per code along each side, found -2"),
        (None, "downsampling: expected an int >= 1, pixels per code along each side, found None"),
        ("fails", "downsampling of its section fails: ZeroDivisionError: integer division or mod"),
    ],
)
def test_a_downsampling_that_is_no_number_of_pixels_is_refused(factor, said):
    imagetok.register(Halves, lambda section, spec: pair(spec))
    assert refused(lambda: config(factor)).startswith(said)


def test_a_broken_network_ends_a_command_with_one_message(plugin, tmp_path, capsys):
    text = PATCHES.replace("spec.encoder_channels, 2", "spec.encoder_channels + 1, 2")
    words = ["--plugin", str(plugin("mine.py", text)), "train", str(DIGITS / "vqvae.yaml")]
    words += ["--set", "tokenizer.network={kind: patches}"]
    assert _run([*words, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "error: network 'patches' (imagetok_plugin_mine:Patches): encoder: expected " in error
    assert "found (2, 17, 8, 8)" in error and error.count("\n") <= 3


PATCHES = """
from typing import Literal

from torch import nn

import imagetok
from imagetok.networks import NetworkSection


class Patches(NetworkSection):
    kind: Literal["patches"] = "patches"
    downsampling: int = 2


@imagetok.register(Patches)
def build(config, spec):
    return (
        nn.Conv2d(spec.image_channels, spec.encoder_channels, 2, stride=2),
        nn.ConvTranspose2d(spec.decoder_channels, spec.image_channels, 2, stride=2),
    )
"""
