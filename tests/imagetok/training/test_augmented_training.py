"""Training with augmentation: resumed runs are bit-identical, and nothing else changes."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_resume import assert_same_run, tree

from imagetok.config import dump_yaml, validate
from imagetok.errors import ConfigError
from imagetok.training.config import TokenizerRun
from imagetok.training.tokenizer import train_tokenizer

AUGMENT = {
    "horizontal_flip": True,
    "random_crop": {"side": 10},
    "colour_jitter": {"brightness": 0.3},
}


def config(augment: dict | None = AUGMENT, **train: object) -> TokenizerRun:
    raw = tree(**{"checkpoint_every": 2, "evaluate_every": 3, **train})
    raw["augment"] = augment
    return validate(raw, TokenizerRun, "test")


def test_a_resumed_run_equals_an_uninterrupted_one_with_any_number_of_workers(tmp_path):
    train_tokenizer(config(steps=6), tmp_path / "whole")
    for workers in (2, 4):
        run = tmp_path / f"workers{workers}"
        train_tokenizer(config(steps=3, workers=workers), run)
        train_tokenizer(config(steps=6), run, resume=True)
        assert_same_run(tmp_path / "whole", run, 6)


def test_augmentation_changes_what_is_learnt_but_not_the_form_of_the_images(tmp_path):
    for name, augment in (("with", AUGMENT), ("without", None)):
        train_tokenizer(config(augment, steps=2), tmp_path / name)
    folders = [tmp_path / name / "tokenizer" for name in ("with", "without")]
    left, right = (load_file(folder / "model.safetensors") for folder in folders)
    assert any(not left[name].equal(right[name]) for name in left)
    left, right = (json.loads((folder / "config.json").read_text()) for folder in folders)
    assert left["architecture"] == right["architecture"]


def test_without_augmentation_the_config_is_what_it_was():
    assert "augment" not in dump_yaml(config(None))
    assert validate(config().model_dump(mode="json"), TokenizerRun, "test") == config()


def test_a_run_is_not_resumed_with_another_augmentation(tmp_path: Path):
    train_tokenizer(config(steps=2), tmp_path / "run")
    for other in (None, {"horizontal_flip": True}, {**AUGMENT, "random_crop": {"side": 11}}):
        with pytest.raises(ConfigError, match="cannot resume with a different config:\n  augment"):
            train_tokenizer(config(other, steps=3), tmp_path / "run", resume=True)


def test_colours_of_label_maps_are_refused_when_the_config_is_read():
    raw = config().model_dump(mode="json")
    raw["tokenizer"]["image"] |= {"mode": "labels", "interpolation": "nearest", "num_classes": 11}
    raw["tokenizer"]["likelihood"] = {"kind": "vmf"}
    with pytest.raises(ConfigError, match=r"augment\.colour_jitter: expected none for label maps"):
        validate(raw, TokenizerRun, "test")
