"""Converting from the Hub: the needed files of one commit, and what is said when one is missing."""

import json
from pathlib import Path

import pytest
from drawn_weights import drawn_weights
from hub_server import HubServer, Repo
from safetensors.torch import save

import imagetok
from imagetok.errors import ArtifactError, InputError, ResourceError

SHAPES = json.loads((Path(__file__).parent / "data" / "taming.json").read_text())
WEIGHTS = save(drawn_weights(SHAPES))
CARD = b"---\nlicense: openrail++\nlibrary_name: diffusers\n---\n# A model\n"
INDEX = json.dumps({
    "weight_map": {
        **{f"model.vqmodel.{name}": "model-00002-of-00002.safetensors" for name in SHAPES},
        "lm_head.weight": "model-00001-of-00002.safetensors",
    }
}).encode()  # fmt: skip


def test_one_file_and_what_lies_beside_it_are_downloaded(hub: HubServer, tmp_path):
    repo = hub.repos["user/vqgan"] = Repo()
    commit = repo.commit({"last.ckpt.safetensors": WEIGHTS, "README.md": CARD, "other.bin": b"x"})
    found = imagetok.convert(
        "user/vqgan", "taming", tmp_path / "out", size=32, file="last.ckpt.safetensors"
    )
    assert found.origin == f"user/vqgan@{commit}/last.ckpt.safetensors"
    assert found.license == "openrail++"
    assert found.origin in (tmp_path / "out" / "README.md").read_text()
    assert not any("other.bin" in request for request in map(str, hub.requests))
    again = imagetok.convert(
        f"user/vqgan@{commit}", "taming", tmp_path / "again", size=32, file="last.ckpt.safetensors"
    )
    assert again.tokenizer.fingerprint == found.tokenizer.fingerprint


def test_only_the_files_of_a_large_model_that_hold_the_tokenizer_are_downloaded(
    hub: HubServer, tmp_path
):
    weights = {f"model.vqmodel.{name}": tensor for name, tensor in drawn_weights(SHAPES).items()}
    repo = hub.repos["user/model"] = Repo()
    repo.commit({
        "model.safetensors.index.json": INDEX, "model-00002-of-00002.safetensors": save(weights),
    })  # fmt: skip
    with pytest.raises(InputError):  # they are of another family
        imagetok.convert("user/model", "janus", tmp_path / "out", size=32)
    assert not any("00001" in request for request in map(str, hub.requests))


def test_a_repository_without_weights_says_which_files_were_looked_for(hub: HubServer, tmp_path):
    hub.repos["user/empty"] = Repo()
    hub.repos["user/empty"].commit({"README.md": CARD})
    with pytest.raises(ArtifactError, match=r"has no last.ckpt or model.ckpt; name the file"):
        imagetok.convert("user/empty", "taming", tmp_path / "out")
    with pytest.raises(ArtifactError, match="user/none"):
        imagetok.convert("user/none", "taming", tmp_path / "out")
    hub.stop()
    with pytest.raises(ResourceError, match="local folder"):
        imagetok.convert("user/empty", "taming", tmp_path / "out", file="weights.pt")
    assert not (tmp_path / "out").exists()
