"""Configs of runs as callers give them, and what a finished run gives back."""

from pathlib import Path

import pytest

import imagetok
import prior
from imagetok.config import load_config, read_yaml
from imagetok.errors import ArtifactError, ConfigError
from imagetok.training.config import TokenizerRun
from imagetok.training.config_input import choose_run_folder, kind_of, open_config

DIGITS = Path(__file__).parents[3] / "configs" / "digits"
TINY = {
    "tokenizer.network.width": 8,
    "train.steps": 2,
    "train.log_every": 1,
    "train.trackers": [],
}


def test_a_file_a_mapping_and_a_typed_config_are_one_config():
    file = DIGITS / "edvae.yaml"
    typed = load_config(file, TokenizerRun)
    for config in (file, str(file), read_yaml(file), typed):
        tree = open_config(config, TINY).tree
        found = TokenizerRun.model_validate(tree)
        assert (found.train.steps, found.train.trackers) == (2, ())
        assert found.tokenizer == load_config(file, TokenizerRun, TINY).tokenizer
    assert kind_of(file) == "tokenizer"
    assert kind_of(DIGITS / "gpt.yaml") == "prior"


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("configs/digits/edvae.yaml", "runs/digits-edvae"),
        ("configs/cifar10/edvae-paper/edvae.yaml", "runs/cifar10-edvae-paper-edvae"),
        ("configs/celeba/edvae-paper/edvae.yaml", "runs/celeba-edvae-paper-edvae"),
        ("elsewhere/mine/try.yaml", "runs/mine-try"),
        ("elsewhere/configs.yaml", "runs/elsewhere-configs"),
    ],
)
def test_every_config_has_a_run_folder_of_its_own(tmp_path, path, folder):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text("kind: tokenizer\n")
    assert choose_run_folder(open_config(file), None) == Path(folder)
    assert choose_run_folder(open_config(file), "runs/a") == Path("runs/a")


def test_the_other_kind_is_refused_by_the_name_of_its_function(tmp_path):
    with pytest.raises(ConfigError, match=r"gpt\.yaml: kind: expected 'tokenizer'.*prior\.train"):
        imagetok.train(DIGITS / "gpt.yaml", out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"edvae\.yaml: .*found 'tokenizer'.*imagetok\.train"):
        prior.train(DIGITS / "edvae.yaml", out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"config: kind: expected .* found None"):
        imagetok.train({"seed": 0}, out=tmp_path / "run")
    with pytest.raises(ConfigError, match="cannot read the config"):
        imagetok.train(tmp_path / "none.yaml", out=tmp_path / "run")
    with pytest.raises(ConfigError, match="out: expected a run folder, found none"):
        imagetok.train(read_yaml(DIGITS / "edvae.yaml"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_config_is_refused(untyped, tmp_path):
    with pytest.raises(ConfigError, match="config: expected a path, a mapping or a typed config"):
        imagetok.train(7, out=tmp_path / "run")


def test_a_finished_run(tmp_path):
    run = imagetok.train(
        DIGITS / "edvae.yaml", out=tmp_path / "run", set=TINY, device="cpu", progress=False
    )
    assert run.artifact == tmp_path / "run" / "tokenizer"
    assert [(r["step"], r["split"]) for r in run.history] == [
        (1, "train"),
        (2, "train"),
        (2, "test"),
    ]
    assert run.history[-1]["mse"] == run.measures["mse"]
    assert run.tokenizer is run.autoencoder
    assert run.tokenizer.fingerprint == imagetok.Tokenizer.from_pretrained(run.artifact).fingerprint
    assert "psnr_db" in repr(run)
    assert "data:image/png;base64," in run._repr_html_()
    again = imagetok.train(
        DIGITS / "edvae.yaml", out=run.folder, set=TINY, device="cpu", resume=True, progress=False
    )
    assert again.measures == run.measures
    with pytest.raises(ConfigError, match="not empty"):
        imagetok.train(DIGITS / "edvae.yaml", out=run.folder, set=TINY, device="cpu")


def test_a_vae_has_an_autoencoder_and_no_tokenizer(tmp_path):
    run = imagetok.train(
        DIGITS / "vae.yaml", out=tmp_path / "run", set=TINY, device="cpu", progress=False
    )
    assert run.autoencoder.kind == "autoencoder"
    with pytest.raises(ArtifactError, match="which has no codes"):
        _ = run.tokenizer
