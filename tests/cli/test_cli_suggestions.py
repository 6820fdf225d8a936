"""A misspelt name of any kind is refused with the one that was probably meant, and exit code 2."""

import shlex

import pytest
from PIL import Image

from cli.main import _run

TRAIN = "train digits/edvae --out run --set"
CONV = "train cifar10/edvae-cpu --out run --set"


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("trian digits/edvae", "No such command 'trian'; did you mean 'train'?"),
        ("Diagnose", "did you mean 'diagnose'?"),
        ("train digits/edvae --resmue", "--resume"),
        ("train digits/edvea", "did you mean digits/edvae"),
        ("configs papers/edvea/cifar10/edvae", "did you mean papers/edvae/cifar10/edvae"),
        ("export codes --to parqet --out x", "did you mean 'parquet'?"),
        ("compare a b --out x --allow-different train.step", "did you mean 'train.steps'?"),
        (f"{TRAIN} trian.steps=3", "trian: unknown key; did you mean 'train'?"),
        (f"{TRAIN} kind=tokeniser", "did you mean 'tokenizer'?"),
        (f"{TRAIN} tokenizer.quantizer.kind=edvea", "did you mean 'edvae'?"),
        (f"{CONV} tokenizer.network.init=troch", "did you mean 'torch'?"),
        (f"{TRAIN} data.source=cifar01", "did you mean 'cifar10'?"),
        ("evaluate --tokenizer a --data digits --features incepton", "did you mean 'inception'?"),
    ],
)  # fmt: skip
def test_what_was_meant_is_said(line, meant, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert _run(shlex.split(line)) == 2
    assert meant in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("digitz:test", "did you mean 'digits'?"),
        ("digits:tset", "did you mean 'test'?"),
        ("folder:tain,root=photos", "did you mean 'train'?"),
        ("shapes:train,cuont=3", "did you mean 'count'?"),
    ],
)
def test_sources_splits_and_their_options(spec, meant, tmp_path, monkeypatch):
    from imagetok import ImageContract, open_images, parse_spec
    from imagetok.errors import ConfigError

    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "photos" / "a.png")
    with pytest.raises(ConfigError) as refused:
        open_images(*parse_spec(spec), ImageContract(mode="grey", height=8, width=8))
    assert meant in str(refused.value)
