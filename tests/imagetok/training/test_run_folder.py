"""A run whose folder vanishes, whose terminal is closed, or that is killed before its export."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from representative import slow_but
from test_resume import config, tree

from cli.main import _run
from imagetok.tokenizers import Autoencoder
from imagetok.training.learner import Learner
from imagetok.training.tokenizer import train_tokenizer


@pytest.fixture
def train(tmp_path, monkeypatch):
    """train(at, what, **settings) -> the exit code; `what` is called before the step `at`."""
    genuine = Learner.take

    def run(at: int, what, **settings: object) -> int:
        def take(self: Learner, batches: Iterator[Any], step: int) -> object:
            if step == at:
                what()
            return genuine(self, batches, step)

        monkeypatch.setattr(Learner, "take", take)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree(**settings)))
        return _run(["train", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")])

    return run


ENDS = [(end, every, t) for end in ("removed", "renamed") for every in (1, 100) for t in (0, 1)]


@pytest.mark.parametrize(("end", "log_every", "tracked"), slow_but([("removed", 1, 1)], ENDS))
def test_a_folder_that_vanishes_is_one_message(end, log_every, tracked, train, tmp_path, capfd):
    def vanish() -> None:
        (tmp_path / "run").rename(tmp_path / "moved")
        if end == "removed":
            shutil.rmtree(tmp_path / "moved")

    code = train(3, vanish, log_every=log_every, trackers=["tensorboard"] * tracked)
    said = capfd.readouterr().err
    assert code == 5, said
    assert said.count("error: ") == 1 and "run: was removed, renamed or replaced" in said
    assert "Traceback" not in said and "Exception in thread" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("hangups_count")
def test_a_hangup_leaves_a_checkpoint(train, tmp_path, capfd):
    code = train(3, lambda: os.kill(os.getpid(), signal.SIGHUP))
    assert code == 128 + signal.SIGHUP
    assert "stopped by SIGHUP at step 4" in capfd.readouterr().err
    assert (tmp_path / "run" / "checkpoints" / "step-00000004" / "manifest.json").is_file()


def test_the_card_of_a_resumed_run_is_that_of_an_uninterrupted_one(tmp_path, monkeypatch):
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    train_tokenizer(config(steps=5), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Autoencoder, "save_pretrained", killed)
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(config(steps=5), tmp_path / "killed")
    train_tokenizer(config(steps=5), tmp_path / "killed", resume=True)
    cards = [Path(tmp_path / run / "tokenizer" / "README.md") for run in ("whole", "killed")]
    assert cards[0].read_text() == cards[1].read_text()
