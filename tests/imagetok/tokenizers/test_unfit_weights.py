"""Weights that are not finite, or cannot be read: said so, by name, before any work."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rank_attacks import make_images
from sampling_parts import make_prior_folder

from cli.main import _run
from imagetok.codes.encode import encode
from imagetok.errors import ArtifactError, NotFiniteError
from imagetok.pictures import as_pixels
from imagetok.tokenizers import Tokenizer
from prior.base import Prior

PARTS = {"encoder": "encoder.layers.0.weight", "quantizer": "quantizer.codebook", "decoder": ""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior of good weights with its tokenizer, images, codes, and broken ones of each part."""
    out = tmp_path_factory.mktemp("weights")
    make_prior_folder(out)
    make_images(out / "images", 6)
    encode(out / "own", out / "images", out / "codes", progress=False)
    for part in PARTS:
        broken = Tokenizer.from_pretrained(out / "own")
        for name, tensor in broken.state_dict().items():
            if name.startswith(part) and tensor.is_floating_point():
                tensor.view(-1)[-1] = float("nan")
        broken.save_pretrained(out / part)
    prior = Prior.from_pretrained(out / "prior")
    next(iter(prior.state_dict().values())).fill_(float("inf"))
    prior.save_pretrained(out / "broken-prior", out / "own")
    return out


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("command", ["encode", "reconstruct", "decode"])
def test_the_weights_are_blamed_and_not_the_pixels(part, command, folder, tmp_path, capsys):
    images = str(folder / "images")
    more = {
        "encode": ["--data", images, "--shards"],
        "reconstruct": [f"{images}/a/000.png", "--out"],
        "decode": ["--shards", str(folder / "codes"), "--out"],
    }
    code = _run([command, "--tokenizer", str(folder / part), *more[command], str(tmp_path / "x")])
    said = capsys.readouterr().err
    assert code == 3, said
    if command != "decode":  # codes are refused first, for they are another tokenizer's
        assert "expected finite weights, found NaN or infinity in " + PARTS[part] in said
    assert "pixels" not in said and not (tmp_path / "x").exists()


def test_a_prior_that_is_not_finite_draws_nothing(folder, tmp_path, capsys):
    prior = str(folder / "broken-prior")
    assert _run(["sample", "--prior", prior, "-n", "2", "--out", str(tmp_path / "x")]) == 3
    assert "broken-prior: expected finite weights" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_pictures_that_hold_nan_say_so():
    with pytest.raises(NotFiniteError, match="found NaN"):
        as_pixels(torch.full((1, 1, 2, 2), float("nan")))


@pytest.fixture
def somebody() -> Iterator[Path]:
    """A folder that everybody may enter, as a user who is not root."""
    place = Path(tempfile.mkdtemp(prefix="imagetok-test-"))
    place.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield place
    os.seteuid(user)
    shutil.rmtree(place)


def test_a_file_that_may_not_be_read_is_not_called_missing(somebody):
    user = os.geteuid()
    os.seteuid(os.getuid())
    make_prior_folder(somebody)
    weights = somebody / "own" / "model.safetensors"
    for path in somebody.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    weights.chmod(0o000)
    os.seteuid(user)
    with pytest.raises(ArtifactError, match=r"model\.safetensors: cannot be read: Permission"):
        Tokenizer.from_pretrained(somebody / "own")
    os.seteuid(os.getuid())
    weights.unlink()
    with pytest.raises(ArtifactError, match=r"it has no model\.safetensors"):
        Tokenizer.from_pretrained(somebody / "own")
