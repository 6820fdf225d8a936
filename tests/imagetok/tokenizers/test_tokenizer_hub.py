"""Tokenizers on the Hub: what comes back is what was shared, and nothing else is ever loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hub_server import HubServer

from imagetok import artifacts
from imagetok.errors import ArtifactError, ConfigError, ResourceError
from imagetok.tokenizers import Tokenizer

Build = Callable[..., Tokenizer]
NAME = "ann/edvae"
FILES = {"config.json", "model.safetensors", "README.md", "manifest.json"}


@pytest.fixture
def files(tmp_path: Path, build: Build) -> dict[str, bytes]:
    """The files of a saved tokenizer."""
    build().save_pretrained(tmp_path / "made")
    return {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}


def asked_files(hub: HubServer) -> set[str]:
    """The names that were asked for in any repository."""
    return {request.split("/resolve/")[1].partition("/")[2] for request in hub.asked("/resolve/")}


def refused(says: str, source: str = NAME, error: type[Exception] = ArtifactError) -> None:
    with pytest.raises(error, match=says):
        Tokenizer.from_pretrained(source)


@pytest.mark.parametrize("kind", ["edvae", "vqvae-ema"])
def test_a_shared_tokenizer_comes_back_bit_for_bit(
    hub: HubServer, fresh_cache, build: Build, kind: str
) -> None:
    shared = build(kind)
    assert shared.origin is None
    pushed = shared.push_to_hub(NAME, {"test psnr_db": 20.5})
    assert shared.origin == pushed.origin == f"{NAME}@{pushed.commit}"
    fresh_cache()
    loaded = Tokenizer.from_pretrained(NAME)
    assert loaded.fingerprint == shared.fingerprint and loaded.origin == pushed.origin
    state = shared.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    assert hub.repos[NAME].head().keys() == {*FILES, ".gitattributes"}
    assert asked_files(hub) == FILES


def test_a_card_names_the_repository_and_holds_what_was_measured(
    hub: HubServer, build: Build
) -> None:
    tokenizer = build()
    tokenizer.push_to_hub(NAME, {"test psnr_db": 20.5})
    card = hub.repos[NAME].head()["README.md"].decode()
    assert card.startswith("---\nlibrary_name: imagetok\ntags:\n- image-tokenizer\n- edvae\n---\n")
    assert f'Tokenizer.from_pretrained("{NAME}")' in card and artifacts.HERE not in card
    assert "| test psnr_db | 20.5 |" in card and tokenizer.fingerprint in card
    tokenizer.push_to_hub(NAME)
    assert "Measured" not in hub.repos[NAME].head()["README.md"].decode()


def test_the_same_content_is_pushed_once(hub: HubServer, build: Build) -> None:
    assert build().push_to_hub(NAME) == build().push_to_hub(NAME)
    assert len(hub.repos[NAME].commits) == 2
    assert build(seed=1).push_to_hub(NAME) != build().push_to_hub(NAME)


def test_a_push_that_fails_leaves_the_origin(hub: HubServer, build: Build, log_in) -> None:
    tokenizer = build()
    log_in(None)
    with pytest.raises(ArtifactError, match="not logged in"):
        tokenizer.push_to_hub(NAME)
    assert tokenizer.origin is None


def test_the_revision_decides_what_is_loaded(hub: HubServer, fresh_cache, build: Build) -> None:
    first, second, third = (build(seed=seed) for seed in range(3))
    old = first.push_to_hub(NAME)
    hub.repos[NAME].refs["v1"] = old.commit
    third.push_to_hub(NAME, revision="trial", private=False, message="try")
    second.push_to_hub(NAME)
    fresh_cache()
    for source, revision, expected in [
        (NAME, None, second),
        (NAME, "main", second),
        (NAME, "v1", first),
        (f"{NAME}@v1", None, first),
        (NAME, old.commit, first),
        (old.origin, None, first),
        (NAME, "trial", third),
    ]:
        loaded = Tokenizer.from_pretrained(source, revision=revision)
        assert loaded.fingerprint == expected.fingerprint and loaded.origin == expected.origin


def test_a_local_folder_wins(hub: HubServer, build: Build, tmp_path: Path, monkeypatch) -> None:
    build(seed=1).push_to_hub(NAME)
    hub.requests.clear()
    monkeypatch.chdir(tmp_path)
    build().save_pretrained(NAME)
    local = Tokenizer.from_pretrained(NAME)
    assert (local.origin, hub.requests) == (NAME, [])
    assert local.fingerprint == build().fingerprint
    with pytest.raises(ConfigError, match="found a local path"):
        Tokenizer.from_pretrained(NAME, revision="main")
    with pytest.raises(ArtifactError, match="ann/other: no such folder"):
        Tokenizer.from_pretrained(Path("ann/other"))
    refused("no such folder, so read as a Hub id.*no such repository", "ann/other")
    refused("no such folder.*or a Hub id like user/name", "other")


def test_other_files_of_a_repository_are_never_asked_for(
    hub: HubServer, fresh_cache, files: dict[str, bytes]
) -> None:
    hostile = ["pytorch_model.bin", "model.pkl", "../config.json", "../../.bashrc", "/etc/passwd"]
    hostile += ["config.json.pkl", "tokenizer/config.json", ".git/config", "model.PT", "a\\b.py"]
    cache = fresh_cache()
    hub.add(NAME, files | {name: b"\x80\x04." for name in hostile})
    Tokenizer.from_pretrained(NAME)
    assert asked_files(hub) == FILES
    assert {path.name for path in cache.rglob("snapshots/*/*")} == FILES


@pytest.mark.parametrize("missing", ["README.md", "manifest.json"])
def test_card_and_manifest_may_be_missing(
    hub: HubServer, files: dict[str, bytes], missing: str
) -> None:
    del files[missing]
    hub.add(NAME, files)
    loaded = Tokenizer.from_pretrained(NAME)
    hub.stop()
    for source in (NAME, str(loaded.origin)):
        assert Tokenizer.from_pretrained(source).origin == loaded.origin


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_weights_and_config_are_needed(hub: HubServer, files: dict[str, bytes], name: str) -> None:
    del files[name]
    hub.add(NAME, files)
    refused(f"has no {name}")


@pytest.mark.parametrize("has_manifest", [True, False])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_changed_bytes_of_the_right_size_are_refused(
    hub: HubServer, files: dict[str, bytes], name: str, has_manifest: bool
) -> None:
    if not has_manifest:
        del files["manifest.json"]
    hub.add(NAME, files)
    changed = bytearray(files[name])
    place = -9 if name == "model.safetensors" else changed.index(b'"max_logit": 2') + 13
    changed[place] ^= 1
    hub.tamper(NAME, name, bytes(changed))
    says = f"{name}: its sha256 differs" if has_manifest else "expected fingerprint"
    refused(rf"^{NAME}@[0-9a-f]{{40}}: .*{says}")


def test_a_damaged_copy_in_the_cache_is_refused_and_named(
    hub: HubServer, fresh_cache, files: dict[str, bytes]
) -> None:
    cache = fresh_cache()
    hub.add(NAME, files)
    Tokenizer.from_pretrained(NAME)
    (weights,) = cache.rglob("snapshots/*/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    folder = cache / "models--ann--edvae"
    refused(f"sha256 differs from the recorded one; delete {folder} to download it again")
    shutil.rmtree(folder)
    Tokenizer.from_pretrained(NAME)


def test_a_card_may_be_edited_on_the_hub(
    hub: HubServer, files: dict[str, bytes], build: Build
) -> None:
    hub.add(NAME, files | {"README.md": b"---\nlicense: mit\n---\n# Mine\n"})
    assert Tokenizer.from_pretrained(NAME).fingerprint == build().fingerprint


def test_what_is_no_tokenizer_is_not_fetched(hub: HubServer, files: dict[str, bytes]) -> None:
    config = json.loads(files["config.json"])
    for changed, says in [
        ({"model_type": "gpt2"}, "expected a tokenizer or prior of imagetok"),
        (config | {"kind": "prior"}, "expected a tokenizer, found a prior"),
        (config | {"kind": ["prior"]}, "expected a tokenizer or prior of imagetok"),
        (
            " " * artifacts.MAX_CONFIG_BYTES + json.dumps(config),
            "expected a tokenizer or prior of imagetok",
        ),
        ("[" * 100_000, "expected a tokenizer or prior of imagetok"),
    ]:
        text = changed if isinstance(changed, str) else json.dumps(changed)
        hub.add(NAME, files | {"config.json": text.encode()})
        refused(rf"^{NAME}@.*{says}")
    assert asked_files(hub) == {"config.json"}


def test_a_cut_transfer_is_never_used(hub: HubServer, files: dict[str, bytes]) -> None:
    hub.add(NAME, files)
    size = len(files["model.safetensors"])
    hub.cut("GET /store/", after=size // 2, times=1)
    Tokenizer.from_pretrained(NAME)
    hub.add("ann/other", files | {"model.safetensors": files["model.safetensors"] + b"\0"})
    hub.cut("GET /store/", after=size - 1)
    refused("connection to the Hub", "ann/other", ResourceError)
    hub.stop()
    refused("cache does not have its model.safetensors", "ann/other", ResourceError)
    Tokenizer.from_pretrained(NAME)


def test_a_transfer_that_never_ends_is_given_up(
    hub: HubServer, files: dict[str, bytes], monkeypatch
) -> None:
    hub.add(NAME, files)
    hub.drip("GET /store/")
    monkeypatch.setattr("imagetok.io.timeouts.TOTAL", 2.0)
    monkeypatch.setattr("imagetok.io.timeouts.SLOWEST", 1e9)
    refused(r"connection to the Hub .* failed: given up after 2 s", NAME, ResourceError)


def test_origins_of_local_tokenizers(build: Build, tmp_path: Path) -> None:
    tokenizer = build()
    assert tokenizer.origin is None
    tokenizer.save_pretrained(tmp_path / "t")
    assert tokenizer.origin == str(tmp_path / "t")
    assert Tokenizer.from_pretrained(f"{tmp_path}/t/").origin == str(tmp_path / "t")
