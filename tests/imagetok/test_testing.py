"""The contracts hold of imagetok's own parts, and say which rule a broken one breaks."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import imagetok
from imagetok.data import (
    DataConfig,
    DataSection,
    DigitsConfig,
    ImageBatch,
    ImageDataset,
    ShapesConfig,
)
from imagetok.data.base import ArrayImages
from imagetok.images import ImageContract
from imagetok.networks import (
    ConvConfig,
    FlatNetworkConfig,
    NetworkSection,
    NetworkSpec,
    SonnetConfig,
)
from imagetok.plugins import loading
from imagetok.quantizers import Quantized, VQConfig, VQEMAConfig, build_quantizer
from imagetok.testing import check_dataset, check_network, check_quantizer

CONTRACT = ImageContract(mode="rgb", height=8, width=8)


@pytest.fixture(autouse=True)
def clean(monkeypatch) -> None:
    monkeypatch.setattr(loading, "registrations", {})


def changed(monkeypatch, method: str, change: Callable[..., Any]) -> None:
    """VQ with one of its methods changed: change(quantizer, what the method gives, input)."""
    built = build_quantizer(VQConfig()).__class__
    before = getattr(built, method)

    def other(self, h, *arguments, **named):
        return change(self, before(self, h, *arguments, **named), h)

    monkeypatch.setattr(built, method, other)


def note(quantizer: Any, out: Quantized, h: Tensor) -> Quantized:
    del h
    with torch.no_grad():
        quantizer.codebook += 1
    return out


BROKEN: list[tuple[str, Callable[..., Any], str]] = [
    ("forward", lambda q, out, h: tuple(out), "forward: expected Quantized, found tuple"),
    ("forward", lambda q, out, h: out._replace(losses={}), "the section names ('codebook', 'com"),
    ("forward", lambda q, out, h: out._replace(z_q=out.z_q[:, 1:]), "z_q: expected shape (2, 16"),
    ("forward", lambda q, out, h: out._replace(z_q=out.z_q / 0), "z_q: expected finite values"),
    ("forward", lambda q, out, h: out._replace(z_q=out.z_q.detach().double()), "float32 under aut"),
    ("forward", lambda q, out, h: out._replace(indices=(out.indices[0].int(),)), "int64 codes"),
    (
        "forward",
        lambda q, out, h: out._replace(stats={"n": out.z_q}),
        "stats n: expected to be d",
    ),
    ("forward", note, "only update may change it, forward or encode changed ['codebook']"),
    ("forward", lambda q, out, h: out._replace(z_q=out.z_q + torch.rand(())), "equal generators"),
    ("encode", lambda q, out, h: (out[0] + 512,), "expected codes in [0, 512), found 5"),
    ("encode", lambda q, out, h: out[0], "encode: expected a tuple of 1 code map"),
    ("encode", lambda q, out, h: ((out[0] + len(h)) % 512,), "depend on the other images of its b"),
    ("decode", lambda q, out, h: out[:, :3], "decode: expected shape (2, 16, 3, 4), found (2, 3,"),
    ("certainty", lambda q, out, h: {"entropy": h}, "certainty entropy: expected shape (2, 3, 4)"),
    ("update", lambda q, out, h: {"weight": h}, "update: 'weight', whose rows were replaced, is n"),
]


@pytest.mark.parametrize(("method", "change", "said"), BROKEN, ids=[b[2] for b in BROKEN])
def test_a_broken_quantizer_is_told_which_rule_it_breaks(
    monkeypatch, untyped, method, change, said
):
    config = VQConfig()
    check_quantizer(config)
    changed(monkeypatch, method, change)
    with pytest.raises(AssertionError) as refusal:
        check_quantizer(config)
    assert said in str(refusal.value)


def test_ranks_must_update_alike(monkeypatch):
    built = build_quantizer(VQEMAConfig()).__class__
    before = built.update

    def other(self, stats, generator):
        self.cluster_size += torch.rand(())
        return before(self, stats, generator)

    monkeypatch.setattr(built, "update", other)
    with pytest.raises(AssertionError, match="update: expected the same from equal stats"):
        check_quantizer(VQEMAConfig())


class Halving(NetworkSection):
    kind: Literal["halving"] = "halving"
    downsampling: int = 2  # pyright: ignore[reportIncompatibleMethodOverride]


def pair(spec: NetworkSpec, stride: int = 2) -> tuple[nn.Module, nn.Module]:
    encoder = nn.Conv2d(spec.image_channels, spec.encoder_channels, 2, stride=stride)
    decoder = nn.ConvTranspose2d(spec.decoder_channels, spec.image_channels, 2, stride=2)
    return encoder, decoder


@pytest.mark.parametrize("config", [ConvConfig(width=8), SonnetConfig()], ids=lambda c: c.kind)
def test_networks_keep_their_contract(config: FlatNetworkConfig):
    check_network(config)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda c, spec: pair(spec, 1), "the encoder's output: expected shape (2, 8, 4, 4)"),
        (lambda c, spec: (pair(spec)[0], nn.Identity()), "the decoder's output: expected shape"),
        (
            lambda c, spec: (nn.Sequential(pair(spec)[0]), _with_unused(pair(spec)[1])),
            "unused.weight: no gradient reaches it, which DDP needs",
        ),
        (
            lambda c, spec: (_Batch(pair(spec)[0]), pair(spec)[1]),
            "an image's output depends on others of its batch",
        ),
    ],
)
def test_a_broken_network_is_told_which_rule_it_breaks(build, said):
    imagetok.register(Halving, lambda c, spec: pair(spec))
    check_network(Halving())
    loading.registrations.clear()
    imagetok.register(Halving, build)
    with pytest.raises(AssertionError) as refusal:
        check_network(Halving())
    assert said in str(refusal.value)


def _with_unused(module: nn.Module) -> nn.Module:
    module.register_module("unused", nn.Linear(1, 1))
    return module


class _Batch(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(x)
        return out - out.mean(dim=0, keepdim=True)


class Source(DataSection):
    source: Literal["their-source"] = "their-source"


class Wrapped(ImageDataset):
    """Random images, with what `read` gives changed."""

    def __init__(self, change: Callable[[ImageBatch], ImageBatch], split: str, names: int = 2):
        pixels = torch.randint(256, (5, 3, 8, 8), generator=torch.Generator().manual_seed(0))
        self.inner = ArrayImages(
            pixels.byte(), torch.arange(5) % 2, name="x", split=split, contract=CONTRACT
        )
        self.name, self.split, self.contract = "x", split, CONTRACT
        self.class_names = ("a", "b")[:names]
        self.change = change

    def __len__(self) -> int:
        return 5

    def identity(self) -> str:
        return "x"

    def read(self, indices: Sequence[int]) -> ImageBatch:
        return self.change(self.inner.read(indices))


@pytest.mark.parametrize("config", [DigitsConfig(), ShapesConfig()], ids=lambda c: c.source)
def test_sources_keep_their_contract(config: DataConfig):
    check_dataset(config, CONTRACT, "test")


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda c, s, k: Wrapped(lambda b: b._replace(images=b.images / 1), s), "expected uint8"),
        (lambda c, s, k: Wrapped(lambda b: b._replace(labels=b.labels.int()), s), "expected int64"),
        (lambda c, s, k: Wrapped(lambda b: b, s, 1), "found 0 to 1"),
        (lambda c, s, k: Wrapped(lambda b: b, "all"), "split: expected 'train', found 'all'"),
        (
            lambda c, s, k: Wrapped(lambda b: b._replace(images=b.images ^ _byte()), s),
            "expected the same images each time",
        ),
    ],
)
def test_a_broken_source_is_told_which_rule_it_breaks(untyped, build, said):
    imagetok.register(Source, lambda c, s, k: Wrapped(lambda batch: batch, s))
    check_dataset(Source(), CONTRACT)
    loading.registrations.clear()
    imagetok.register(Source, build)
    with pytest.raises(AssertionError) as refusal:
        check_dataset(Source(), CONTRACT)
    assert said in str(refusal.value)


def _byte() -> Tensor:
    return torch.randint(1, 255, (), dtype=torch.uint8)
