"""Priors on the Hub, with their tokenizer."""

import pytest
import torch
from hub_server import HubServer
from representative import slow_but

from imagetok.durable import verify_folder
from imagetok.errors import ArtifactError, ConfigError
from imagetok.tokenizers import Tokenizer
from prior import Prior

NAME, TOKENIZER = "ann/gpt", "ann/vqvae"
OWN = {"config.json", "model.safetensors", "README.md", "manifest.json"}
FILES = OWN | {f"tokenizer/{name}" for name in OWN}
pytestmark = pytest.mark.parametrize(
    "bound", slow_but(["gpt"], ["gpt", "pixelsnail", "pixelcnn"]), indirect=True
)


@pytest.fixture
def shared(hub: HubServer, bound, tokenizer_folder, fresh_cache):
    """A prior that was pushed to an empty repository."""
    pushed = bound.push_to_hub(NAME, tokenizer_folder, {"held-out bits_per_code": 2.25})
    fresh_cache()
    hub.requests.clear()
    return pushed


def test_a_shared_prior_comes_back_with_its_tokenizer(hub: HubServer, shared, bound):
    loaded = Prior.from_pretrained(NAME)
    assert loaded.origin == bound.origin == shared.origin == f"{NAME}@{shared.commit}"
    assert loaded.fingerprint == bound.fingerprint
    assert torch.equal(loaded.sample(5, seed=3)[0], bound.sample(5, seed=3)[0])
    tokenizer = Tokenizer.from_pretrained(loaded.tokenizer_folder)
    assert tokenizer.fingerprint == bound.config.tokenizer_fingerprint
    assert verify_folder(loaded.tokenizer_folder) == []
    asked = {r.split("/resolve/")[1].partition("/")[2] for r in hub.asked("/resolve/")}
    assert asked == FILES and hub.repos[NAME].head().keys() == {*FILES, ".gitattributes"}


def test_the_card_of_a_prior_names_its_repository(hub: HubServer, shared):
    card = hub.repos[NAME].head()["README.md"].decode()
    assert card.startswith("---\nlibrary_name: imagetok\npipeline_tag: unconditional-image-gen")
    assert f"imagetok sample --prior {NAME} -n 16" in card
    assert "| held-out bits_per_code | 2.25 |" in card


@pytest.mark.parametrize("flat", ["gpt"], indirect=True)
def test_a_loaded_prior_can_be_shared_again(hub: HubServer, shared, flat):
    loaded = Prior.from_pretrained(NAME)
    pushed = loaded.push_to_hub("ann/copy", metrics={"held-out bits_per_code": 2.25})
    copy, original = hub.repos["ann/copy"].head(), hub.repos[NAME].head()
    same = [name for name in FILES if copy[name] == original[name]]
    assert FILES - set(same) == {"README.md", "manifest.json"}  # they name the repository
    assert Prior.from_pretrained("ann/copy").origin == pushed.origin
    with pytest.raises(ConfigError, match="pass tokenizer="):
        flat.push_to_hub("ann/none")
    assert "ann/none" not in hub.repos


@pytest.mark.parametrize("name", sorted(FILES - OWN))
def test_a_prior_whose_tokenizer_is_incomplete_or_changed(hub: HubServer, shared, name):
    files = dict(hub.repos[NAME].head())
    hub.add("ann/less", {key: data for key, data in files.items() if key != name})
    hub.add("ann/other", files | {name: files[name] + b" "})
    if name.endswith(("README.md", "manifest.json")):
        assert Prior.from_pretrained("ann/less").fingerprint
        assert Prior.from_pretrained("ann/other").fingerprint
        return
    with pytest.raises(ArtifactError, match=f"has no {name}"):
        Prior.from_pretrained("ann/less")
    with pytest.raises(ArtifactError, match=rf"ann/other@.*{name}: expected \d+ bytes"):
        Prior.from_pretrained("ann/other")


def test_a_repository_of_another_kind_is_refused_before_its_weights(hub: HubServer, shared):
    with pytest.raises(ArtifactError, match=rf"{NAME}@.*: expected a tokenizer, found a prior"):
        Tokenizer.from_pretrained(NAME)
    assert not hub.asked("safetensors")


def test_a_tokenizer_on_the_hub_is_embedded(hub: HubServer, bound, tokenizer_folder, tmp_path):
    Tokenizer.from_pretrained(tokenizer_folder).push_to_hub(TOKENIZER)
    hub.repos[TOKENIZER].commit(hub.repos[TOKENIZER].head() | {"README.md": b"# edited there\n"})
    bound.save_pretrained(tmp_path / "prior", TOKENIZER)
    assert verify_folder(tmp_path / "prior") == verify_folder(tmp_path / "prior/tokenizer") == []
    assert (tmp_path / "prior" / "tokenizer" / "README.md").read_text() == "# edited there\n"
    assert bound.origin == str(tmp_path / "prior")
    embedded = Tokenizer.from_pretrained(bound.tokenizer_folder)
    assert embedded.fingerprint == bound.config.tokenizer_fingerprint
    names = {p.relative_to(tmp_path / "prior").as_posix() for p in tmp_path.glob("prior/**/*.*")}
    assert names == FILES


def test_a_damaged_tokenizer_is_not_embedded(bound, tokenizer_folder, tmp_path):
    folder = tmp_path / "tokenizer"
    Tokenizer.from_pretrained(tokenizer_folder).save_pretrained(folder)
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactError, match=r"model\.safetensors: expected \d+ bytes"):
        bound.save_pretrained(tmp_path / "prior", folder)
    assert not (tmp_path / "prior").exists()
