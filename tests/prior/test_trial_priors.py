"""What was measured of a tokenizer or prior is not taken for that of one trained after it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import imagetok
import prior
from imagetok.comparison.plan import Trial
from imagetok.comparison.trial_distances import FeatureWork
from imagetok.config import validate
from imagetok.data.config import ShapesConfig
from imagetok.durable import write_json
from imagetok.errors import ConfigError
from prior.config import PriorRun
from prior.papers.follow_ups import _exploration
from prior.trial_priors import PriorWork, check_samples

FEATURES = ("cifar-resnet=weights",)
NEIGHBOURS = (1, 2)
RATE = {"kind": "constant", "value": 1e-3}


@pytest.fixture
def trial(tokenizer_folder: Path, tmp_path: Path) -> Trial:
    """A finished trial, without results of follow-up steps."""
    shutil.copytree(tokenizer_folder, tmp_path / "seed-1" / "tokenizer")
    (tmp_path / "seed-1-later").mkdir()
    return Trial("a", 1, 2, tmp_path / "a.yaml", tmp_path / "seed-1", tmp_path / "seed-1.log")


def train_again(trial: Trial, tokenizer: Path) -> None:
    shutil.rmtree(trial.folder / "tokenizer")
    shutil.copytree(tokenizer, trial.folder / "tokenizer")


def later(trial: Trial) -> Path:
    return trial.folder.with_name("seed-1-later")


def fingerprint(trial: Trial) -> str:
    return json.loads((trial.folder / "tokenizer" / "config.json").read_text())["fingerprint"]


def prior_work() -> PriorWork:
    tree = {"tokenizer": "-", "data": {"source": "-"}, "model": {"kind": "pixelcnn"}}
    run = validate(
        tree | {"train": {"steps": 1, "batch_size": 1, "learning_rate": RATE}}, PriorRun, "test"
    )
    return PriorWork("-", run, 1, ShapesConfig(), "cpu", FeatureWork((), ShapesConfig(), "cpu"))


def test_codes_of_a_tokenizer_that_was_trained_again_are_refused(trial, other_tokenizer_folder):
    encoding = next(s for s in prior_work().steps() if s.name == "encoding train")
    assert not encoding.is_done(trial)
    pixels = np.zeros((3, 6, 6), dtype=np.uint8)
    imagetok.encode(trial.folder / "tokenizer", pixels, later(trial) / "codes/train")
    assert encoding.is_done(trial)
    train_again(trial, other_tokenizer_folder)
    with pytest.raises(ConfigError, match=r"trained again .* delete .*seed-1-later"):
        encoding.is_done(trial)


def test_distances_of_a_tokenizer_that_was_trained_again_are_measured_again(
    trial, other_tokenizer_folder
):
    work = FeatureWork(FEATURES, ShapesConfig(), "cpu")
    step = work.step("reconstructions")
    assert not step.is_done(trial)
    record = {"subject": {"tokenizer": fingerprint(trial)}, "identity": {}, "measures": {}}
    write_json(work.path(trial, "reconstructions"), record)
    assert step.is_done(trial)
    train_again(trial, other_tokenizer_folder)
    assert not step.is_done(trial)


def test_changed_codes_are_measured_for_each_tokenizer_and_network(trial, other_tokenizer_folder):
    step = _exploration("shapes:test", NEIGHBOURS, FEATURES, "cpu")
    words = step.command(trial)
    record = {"tokenizer": fingerprint(trial), "distances": {}}
    write_json(Path(words[words.index("--out") + 1]) / "explore.json", record)
    assert step.is_done(trial)
    assert not _exploration("shapes:test", NEIGHBOURS, ("other=weights",), "cpu").is_done(trial)
    assert not _exploration("shapes:test", (1,), FEATURES, "cpu").is_done(trial)
    train_again(trial, other_tokenizer_folder)
    assert not step.is_done(trial)


def test_samples_of_a_prior_that_was_trained_again_are_refused(trial, bound):
    bound.save_pretrained(later(trial) / "prior" / "prior", trial.folder / "tokenizer")
    check_samples(trial)
    drawn = later(trial) / "samples"
    prior.generate(later(trial) / "prior" / "prior", 2, out=drawn, device="cpu", progress=False)
    check_samples(trial)
    record = json.loads((drawn / "samples.json").read_text())
    write_json(drawn / "samples.json", record | {"prior": "f" * 64})
    with pytest.raises(ConfigError, match=r"another prior.* delete .*seed-1-later"):
        check_samples(trial)
