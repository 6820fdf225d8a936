"""What may be registered, what is refused, and how configs of registered kinds are validated."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import nn

import imagetok
from imagetok.config import Section, load_config, validate
from imagetok.data import DataSection, ImageDataset, describe, open_images, parse_spec
from imagetok.errors import ConfigError
from imagetok.evaluation.feature_networks import open_features
from imagetok.images import ImageContract
from imagetok.networks import NetworkSection, NetworkSpec, build_network
from imagetok.plugins.registry import registered
from imagetok.quantizers import QuantizerSection, VQConfig, build_quantizer
from imagetok.tokenizers import TokenizerConfig, build_tokenizer
from imagetok.training.config import TokenizerRun
from prior.build import build_prior
from prior.config import PriorConfig, PriorRun, PriorSection

DIGITS = Path(__file__).parents[3] / "configs" / "digits"
SOFT = {"tokenizer.quantizer": {"kind": "soft-vq", "num_codes": 16}}
WEIGHTS = {"objective.weights": {"commitment": {"kind": "constant", "value": 0.25}}}


class Named(QuantizerSection):
    kind: Literal["named"] = "named"
    losses: ClassVar[tuple[str, ...]] = ()


class Halving(NetworkSection):
    kind: Literal["halving"] = "halving"
    downsampling: int = 2  # pyright: ignore[reportIncompatibleMethodOverride]


class Source(DataSection):
    source: Literal["their-source"] = "their-source"
    file: str = ""


class Model(PriorSection):
    kind: Literal["bag"] = "bag"


def digits(**changes: object) -> TokenizerRun:
    return load_config(DIGITS / "vqvae.yaml", TokenizerRun, changes)


def refused(call: Any, *arguments: object) -> str:
    with pytest.raises(ConfigError) as refusal:
        call(*arguments)
    return str(refusal.value)


def test_a_registered_quantizer_is_a_config_like_any_other(plugin):
    imagetok.load_plugin(plugin())
    config = digits(**SOFT, **WEIGHTS)
    tree = config.model_dump(mode="json")
    assert tree["tokenizer"]["quantizer"] == {"kind": "soft-vq", "num_codes": 16, "code_dim": 16}
    assert validate(tree, TokenizerRun, "again") == config
    assert config.tokenizer.losses == ("commitment",)
    tokenizer = build_tokenizer(config.tokenizer)
    assert tokenizer.num_codes == (16,)
    codes = tokenizer.encode(torch.rand(2, 1, 16, 16))
    assert tokenizer.decode(codes).shape == (2, 1, 16, 16)


def test_faults_in_a_registered_section_read_as_in_any_other(plugin):
    imagetok.load_plugin(plugin())
    section = {"kind": "soft-vq", "num_codez": 16, "code_dim": 0}
    text = refused(lambda: digits(**{"tokenizer.quantizer": section}))
    assert "tokenizer.quantizer.num_codez: unknown key; did you mean 'num_codes'?" in text
    assert "tokenizer.quantizer.code_dim: Input should be greater than 0 (found 0)" in text
    assert "soft-vq." not in text
    levels = [{"kind": "vqvae"}, {"kind": "soft-vq", "num_code": 3}]
    tree = digits().model_dump(mode="json")["tokenizer"]
    del tree["quantizer"]
    tree |= {"network": {"kind": "vqvae2"}, "quantizers": levels}
    text = refused(validate, tree, TokenizerConfig, "t.yaml")
    assert "t.yaml: quantizers.1.num_code: unknown key; did you mean 'num_codes'?" in text


@pytest.mark.parametrize(
    ("key", "section", "said"),
    [
        ("tokenizer.quantizer", {"kind": "vqva"}, "quantizer.kind: expected one of 'edvae', "),
        ("tokenizer.quantizer", {"kind": "vqva"}, "found 'vqva'; did you mean 'vqvae'?"),
        ("tokenizer.quantizer", {"kind": "zzz"}, "with --plugin FILE_OR_MODULE before the comma"),
        ("tokenizer.quantizer", {"kind": 3}, "tokenizer.quantizer.kind: expected one of 'edvae', "),
        ("tokenizer.quantizer", {"num_codes": 3}, "quantizer.kind: expected one of 'edvae', "),
        ("tokenizer.network", {"kind": "con"}, "found 'con'; did you mean 'conv'?"),
        ("data", {"source": "digit"}, "data.source: expected one of 'digits', 'shapes', "),
    ],
)
def test_an_unknown_kind_says_what_is_known_and_how_to_load_another(key, section, said):
    assert said in refused(lambda: digits(**{key: section}))


def test_an_unknown_model_of_a_prior_is_told_in_the_same_way():
    text = refused(lambda: load_config(DIGITS / "gpt.yaml", PriorRun, {"model": {"kind": "gtp"}}))
    assert "model.kind: expected one of 'gpt', 'pixelsnail', 'pixelcnn', 'hierarchy'; found" in text


def test_faults_of_built_in_kinds_are_told_as_before():
    text = refused(lambda: digits(**{"tokenizer.quantizer": {"kind": "vqvae", "num_code": 3}}))
    assert text == f"{DIGITS / 'vqvae.yaml'}: tokenizer.quantizer.num_code: unknown key; did you " \
        "mean 'num_codes'?"  # fmt: skip


class Losses(QuantizerSection):
    kind: Literal["losses"] = "losses"


class NoKind(QuantizerSection):
    losses: ClassVar[tuple[str, ...]] = ()


class Two(QuantizerSection):
    kind: Literal["a", "b"] = "a"
    losses: ClassVar[tuple[str, ...]] = ()


class Taken(QuantizerSection):
    kind: Literal["vqvae"] = "vqvae"
    losses: ClassVar[tuple[str, ...]] = ()


class Capital(QuantizerSection):
    kind: Literal["My VQ"] = "My VQ"
    losses: ClassVar[tuple[str, ...]] = ()


class Flat(NetworkSection):
    kind: Literal["flat"] = "flat"


class Other(Section):
    kind: Literal["other"] = "other"


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (Losses, "Losses (quantizer 'losses') has no 'losses'; see the docstring of QuantizerSec"),
        (NoKind, 'NoKind: expected a key that names it, `kind: Literal["my-name"] = "my-name"`'),
        (Two, "Two: expected a key that names it"),
        (Taken, "'vqvae' is a quantizer of imagetok; choose another name"),
        (Capital, "expected a name of small letters, digits, - and _, found 'My VQ'"),
        (Flat, "Flat (network 'flat') has no 'downsampling'; see the docstring of NetworkSection"),
        (Other, "expected a section class derived from imagetok.quantizers.QuantizerSection, "),
        (VQConfig, "found VQConfig"),
        (QuantizerSection, "found QuantizerSection"),
        (3, "found 3"),
        ("inception", "'inception' is a feature network of imagetok"),
        ("a:b", "found 'a:b'"),
    ],
)
def test_what_cannot_be_registered_is_refused(untyped, what, said):
    assert said in refused(imagetok.register, what, lambda *_: None)
    assert registered() == []


def test_a_name_is_taken_by_another_class_and_given_again_to_the_same():
    imagetok.register(Named, lambda config: None)

    def again(doc: str) -> type[QuantizerSection]:
        class Named(QuantizerSection):
            __doc__ = doc
            kind: Literal["named"] = "named"
            losses: ClassVar[tuple[str, ...]] = ()

        return Named

    assert "quantizer 'named' is taken by" in refused(imagetok.register, again(""), print)
    same = again("a cell that ran again")
    same.__qualname__ = Named.__qualname__
    imagetok.register(same)(lambda config: 1)
    assert [part.config for part in registered("quantizer")] == [same]
    assert "another class is registered under this name" in refused(build_quantizer, Named())


def test_a_builder_is_a_callable_and_is_returned(untyped):
    assert "found 'x'" in refused(imagetok.register, Named, "x")
    build = imagetok.register(Named)(lambda config: None)
    assert build(Named()) is None


def test_what_a_builder_makes_is_checked(untyped):
    imagetok.register(Named, lambda config: nn.Identity())
    assert "expected its builder to make an instance of Quantizer, found Identity" in refused(
        build_quantizer, Named()
    )
    imagetok.register(Named, lambda config: 1 / 0)
    assert "cannot be built: ZeroDivisionError: division by zero" in refused(
        build_quantizer, Named()
    )
    imagetok.register(Halving, lambda config, spec: (nn.Identity(),))
    assert "expected its builder to make two torch modules" in refused(
        build_network, Halving(), 1, 2, 3
    )
    imagetok.register(Source, lambda config, split, contract: [])
    contract = ImageContract(mode="grey", height=8, width=8)
    assert "expected its builder to make an instance of ImageDataset, found list" in refused(
        open_images, Source(), "train", contract
    )


def test_a_network_is_built_for_its_channels():
    seen: list[NetworkSpec] = []

    @imagetok.register(Halving)
    def build(config: Halving, spec: NetworkSpec) -> tuple[nn.Module, nn.Module]:
        seen.append(spec)
        encoder = nn.Conv2d(spec.image_channels, spec.encoder_channels, 2, stride=2)
        decoder = nn.ConvTranspose2d(spec.decoder_channels, spec.image_channels, 2, stride=2)
        return encoder, decoder

    config = digits(**{"tokenizer.network": {"kind": "halving"}})
    assert config.tokenizer.grids == ((8, 8),)
    tokenizer = build_tokenizer(config.tokenizer)
    assert tokenizer.reconstruct(torch.rand(1, 1, 16, 16)).shape == (1, 1, 16, 16)
    assert seen == [NetworkSpec(1, 16, 16, 1, True)]


class Blank(ImageDataset):
    def __init__(self, config: Source, split: str, contract: ImageContract):
        self.name, self.split, self.contract, self.class_names = config.source, split, contract, ()

    def __len__(self) -> int:
        return 3

    def identity(self) -> str:
        return "blank"

    def read(self, indices: Any) -> Any: ...


def test_a_source_has_a_spec_and_its_splits(tmp_path, monkeypatch):
    imagetok.register(Source, Blank)
    config, split = parse_spec("their-source:test,file=a.csv")
    assert (config, split) == (Source(file="a.csv"), "test")
    assert parse_spec(describe(config, split)) == (config, split)
    assert parse_spec("their-source") == (Source(), "train")
    assert "expected one of the splits train, test, all; found 'tset'" in refused(
        parse_spec, "their-source:tset"
    )
    assert "did you mean 'their-source'?" in refused(parse_spec, "there-source:test")
    monkeypatch.chdir(tmp_path)
    Path("their-source").mkdir()
    assert parse_spec("their-source")[0].source == "folder"  # what is there goes first
    other = ImageContract(mode="rgb", height=4, width=4)
    imagetok.register(Source, lambda c, s, k: Blank(c, s, other))
    assert "expected images in the form that it is asked for" in refused(
        open_images, Source(), "train", ImageContract(mode="grey", height=8, width=8)
    )


def test_a_prior_is_built_from_the_whole_config(untyped):
    imagetok.register(Model, lambda config: SimpleNamespace(config=config))
    architecture = {
        "tokenizer_fingerprint": "f", "num_codes": [4], "grids": [[2, 2]], "num_classes": 0,
        "model": {"kind": "bag"},
    }  # fmt: skip
    config = validate(architecture, PriorConfig, "p")
    assert isinstance(config.model, Model)
    assert "expected its builder to make an instance of Prior" in refused(build_prior, config)
    level = {"kind": "hierarchy", "top": {"kind": "bag"}, "bottom": {"kind": "gpt"}}
    text = refused(validate, {**architecture, "model": level}, PriorConfig, "p")
    assert "model.top.kind: expected one of 'gpt', 'pixelsnail', 'pixelcnn'; found 'bag'" in text


def test_a_feature_network_is_asked_for_by_name(tmp_path):
    @imagetok.register("means")
    def means(file: Path | None = None) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1 if file is None else 2), nn.Flatten())

    images = torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8)
    assert open_features("means")(images).vectors.shape == (2, 3)
    assert open_features("means=weights.bin")(images).vectors.shape == (2, 12)
    assert open_features("means").identity()["network"] == "means"
    imagetok.register("plain", lambda: nn.Flatten())
    assert "--features plain=x: expected plain, as" in refused(open_features, "plain=x")
    imagetok.register("bound", lambda file: nn.Flatten())
    assert "--features bound: expected bound=FILE, as" in refused(open_features, "bound")
    imagetok.register("wrong", lambda: 3)
    assert "expected its builder to make an instance of Module, found int" in refused(
        open_features, "wrong"
    )
    assert "found 'meens'" in refused(open_features, "meens")
