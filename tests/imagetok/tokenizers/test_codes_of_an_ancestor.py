"""Artifacts whose decoder alone was trained: whose codes they have, and that nobody can lie."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from relatives import with_new_decoder
from safetensors.torch import load_file, save_file

import imagetok
from imagetok import artifacts
from imagetok.config import validate
from imagetok.errors import ArtifactError
from imagetok.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer

Build = Callable[..., Tokenizer]
KEYS = {"codes_fingerprint", "encoder_sha256"}
IMAGES = torch.rand(3, 3, 8, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def ancestor(tmp_path: Path, build: Build) -> Path:
    build().save_pretrained(tmp_path / "ancestor")
    return tmp_path / "ancestor"


@pytest.fixture
def child(tmp_path: Path, ancestor: Path) -> Path:
    with_new_decoder(ancestor, tmp_path / "child")
    return tmp_path / "child"


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def write_config(folder: Path, config: dict) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "manifest.json").unlink()


def forge(folder: Path, **ancestry: str) -> None:
    """Write an artifact's config with other statements, and the fingerprint that fits them."""
    config: dict[str, Any] = config_of(folder) | ancestry
    stated = artifacts.Ancestry(*(config[key] for key in artifacts.Ancestry._fields))
    tensors = load_file(folder / "model.safetensors")
    found = artifacts.fingerprint_of("tokenizer", config["architecture"], tensors, stated)
    write_config(folder, config | {"fingerprint": found})


def refused(folder: Path, says: str) -> None:
    with pytest.raises(ArtifactError, match=says):
        Tokenizer.from_pretrained(folder)


def test_the_codes_are_those_of_the_ancestor_and_the_images_are_not(ancestor, child):
    old, new = Tokenizer.from_pretrained(ancestor), Tokenizer.from_pretrained(child)
    assert new.codes_fingerprint == old.fingerprint == old.codes_fingerprint
    assert new.fingerprint != old.fingerprint
    assert config_of(child).keys() - config_of(ancestor).keys() == KEYS
    codes = old.encode(IMAGES)
    assert torch.equal(new.encode(IMAGES)[0], codes[0])
    assert not torch.equal(new.decode(codes), old.decode(codes))
    assert new.at_size(16, 24).codes_fingerprint == old.fingerprint


def test_a_child_of_a_child_has_the_codes_of_the_first(tmp_path, ancestor, child):
    grandchild = with_new_decoder(child, tmp_path / "grandchild", seed=1)
    first, second = (Tokenizer.from_pretrained(folder) for folder in (ancestor, child))
    assert grandchild.codes_fingerprint == second.codes_fingerprint == first.fingerprint
    assert len({grandchild.fingerprint, second.fingerprint, first.fingerprint}) == 3
    stated = [config_of(folder)["encoder_sha256"] for folder in (child, tmp_path / "grandchild")]
    assert stated[0] == stated[1]


def test_saving_again_gives_the_same_bytes(tmp_path, child):
    Tokenizer.from_pretrained(child).save_pretrained(tmp_path / "again")
    for path in child.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("key", sorted(KEYS))
def test_the_fingerprint_covers_what_is_stated(child, key):
    write_config(child, config_of(child) | {key: 64 * "0"})
    refused(child, "were changed or damaged: expected fingerprint")


def test_a_child_cannot_be_passed_off_as_a_tokenizer_with_codes_of_its_own(child):
    write_config(child, {key: v for key, v in config_of(child).items() if key not in KEYS})
    refused(child, "were changed or damaged: expected fingerprint")


def test_a_fingerprint_without_ancestry_is_what_it_was(ancestor):
    config, tensors = config_of(ancestor), load_file(ancestor / "model.safetensors")
    found = artifacts.fingerprint_of("tokenizer", config["architecture"], tensors)
    assert found == config["fingerprint"] == Tokenizer.from_pretrained(ancestor).fingerprint


def test_an_artifact_that_lies_about_its_encoder_is_refused(child):
    forge(child, encoder_sha256=64 * "0")
    refused(child, "expected the encoder and quantizer of tokenizer .* found others")
    assert not imagetok.verify(child).is_good


@pytest.mark.parametrize("name", ["encoder.0.weight", "quantizer.codebook"])
def test_another_encoder_under_the_old_statement_is_refused(child, name):
    tensors = load_file(child / "model.safetensors")
    name = next(key for key in tensors if key.startswith(name.split(".")[0]))
    tensors[name] += 1
    save_file(tensors, child / "model.safetensors", metadata={"format": "pt"})
    forge(child)
    refused(child, "found others")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"encoder_sha256": None}, "expected codes_fingerprint and encoder_sha256 together"),
        ({"codes_fingerprint": "abc"}, "codes_fingerprint: expected 64 hexadecimal digits"),
        ({"codes_fingerprint": 3}, "codes_fingerprint: expected 64 hexadecimal digits"),
        ({"kind": "autoencoder"}, "in that of a autoencoder"),
    ],
    ids=str,
)
def test_half_a_statement_is_damage(child, changes, says):
    config = {k: v for k, v in (config_of(child) | changes).items() if v is not None}
    write_config(child, config)
    with pytest.raises(ArtifactError, match=says):
        artifacts.read_artifact(child, "autoencoder")


def test_a_changed_encoder_is_not_saved_as_that_of_the_ancestor(tmp_path, child):
    model = Tokenizer.from_pretrained(child)
    model.get_parameter("quantizer.codebook").add_(1)
    with pytest.raises(ArtifactError, match="not saved: expected the encoder and quantizer"):
        model.save_pretrained(tmp_path / "changed")
    assert not (tmp_path / "changed").exists()


def test_an_earlier_architecture_stays_as_it_was_stored(tmp_path, ancestor):
    """As for artifacts of before `kl` and `evidence` were keys."""
    config, tensors = config_of(ancestor), load_file(ancestor / "model.safetensors")
    for key in ("kl", "evidence"):
        del config["architecture"]["quantizer"][key]
    found = artifacts.fingerprint_of("tokenizer", config["architecture"], tensors)
    write_config(ancestor, config | {"fingerprint": found})
    child = with_new_decoder(ancestor, tmp_path / "child")
    assert child.codes_fingerprint == found
    assert config_of(tmp_path / "child")["architecture"] == config["architecture"]


def test_card_description_and_verification_say_it_in_words(ancestor, child):
    first = Tokenizer.from_pretrained(ancestor).fingerprint
    words = f"Its codes are those of the tokenizer {first}"
    assert words in (child / "README.md").read_text()
    described = imagetok.inspect(child).content
    assert described["codes_fingerprint"] == first and described["codes"].startswith(words)
    verified = imagetok.verify(child)
    assert verified.is_good and verified.note.startswith(words)
    assert not KEYS & imagetok.inspect(ancestor).content.keys()
    assert imagetok.verify(ancestor).note == ""


def test_a_shared_child_comes_back_with_its_codes(hub, fresh_cache, child):
    pushed = imagetok.push(child, "ann/child")
    fresh_cache()
    loaded, here = Tokenizer.from_pretrained(pushed.origin), Tokenizer.from_pretrained(child)
    assert loaded.fingerprint == here.fingerprint
    assert loaded.codes_fingerprint == here.codes_fingerprint != here.fingerprint


def test_levels_below_share_the_rule(tmp_path):
    """In VQ-VAE-2 what upsamples coarse vectors belongs to the encoder."""
    tree = {
        "image": {"mode": "rgb", "height": 16, "width": 16},
        "network": {"kind": "vqvae2", "width": 8, "residual_width": 4, "residual_layers": 1},
        "quantizers": [{"kind": "vqvae-ema", "num_codes": 8, "code_dim": 4}] * 2,
    }
    torch.manual_seed(0)
    build_tokenizer(validate(tree, TokenizerConfig, "test")).save_pretrained(tmp_path / "a")
    child = with_new_decoder(tmp_path / "a", tmp_path / "b")
    before, after = (load_file(tmp_path / n / "model.safetensors") for n in ("a", "b"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(name.startswith("network.decoder.") for name in changed)
    assert all(child.part_of(name) != "decoder" for name in before.keys() - changed)
