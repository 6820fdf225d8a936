"""What a run says before it starts, a dry run of it, and what it says when it ends."""

import logging
import shlex
from pathlib import Path

import pytest
from test_resume import tree

import imagetok
from imagetok.errors import ConfigError
from imagetok.images import ImageContract, pixels_text
from imagetok.plugins import loading
from imagetok.training.facts import RunFacts, classes_text
from imagetok.training.metrics_log import read_json_lines
from imagetok.training.next_commands import command


def facts(**changes: object) -> RunFacts:
    values = dict(
        what="tokenizer, vqvae", data="digits:train", images=100, held_out=10, class_names=(),
        pixels="16 x 16 grey", num_codes=(64,), grids=((4, 4),), parameters=5, steps=50,
        batch_size=8,
    )  # fmt: skip
    return RunFacts(**(values | changes))


def test_bits_and_passes_follow_from_grids_codebooks_and_steps():
    assert facts().bits_per_image == 16 * 6
    assert facts().passes == 4
    assert "e+" not in str(facts(steps=100_000).rows()["steps"])
    two = facts(num_codes=(256, 16), grids=((2, 3), (4, 6)))
    assert two.bits_per_image == 6 * 8 + 24 * 4
    assert two.rows()["codes an image"] == "2 x 3 of 256 and 4 x 6 of 16"
    assert "bits an image" not in facts(num_codes=(), grids=()).rows()


def test_names_are_shown_as_they_are_read():
    assert classes_text(()) == "none"
    assert classes_text(("cat", "dog")) == "2: cat, dog"
    assert classes_text([str(i) for i in range(12)]).endswith("9, ...")
    assert pixels_text(ImageContract(height=64, width=96)) == "96 x 64 rgb"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_dry_run_takes_steps_and_writes_nothing(here):
    config = tree(steps=1000)
    found = imagetok.train(config, out="run", dry_run=True, device="cpu", progress=False)
    assert not list(here.iterdir())
    assert (found.facts.images, found.facts.held_out) == (160, 20)
    assert found.facts.class_names
    assert found.facts.steps == 1000
    assert found.evaluations == 200
    assert found.seconds > 1000 * found.seconds_per_step > 0
    assert found.peak_memory_mb > 0
    assert found.peak_gpu_memory_mb is None
    # its steps are thrown away: a run after it is the run without it
    short = tree(steps=2)
    imagetok.train(short, out="a", device="cpu", progress=False)
    imagetok.train(short, out="b", dry_run=True, device="cpu", progress=False)
    imagetok.train(short, out="b", device="cpu", progress=False)
    weights = [(here / run / "tokenizer" / "model.safetensors").read_bytes() for run in "ab"]
    assert weights[0] == weights[1]


def test_a_dry_run_refuses_what_the_run_refuses(here):
    with pytest.raises(ConfigError, match="prior"):
        imagetok.train("digits/gpt", dry_run=True)
    with pytest.raises(ConfigError, match=r"train\.trackers"):
        imagetok.train(tree(trackers=["mlflow"]), dry_run=True, device="cpu")


def test_a_run_begins_with_its_facts_and_names_the_next_command(here, caplog):
    caplog.set_level(logging.INFO, "imagetok")
    run = imagetok.train(tree(steps=1), out="my run", device="cpu")
    (first,) = [m for m in caplog.messages if m.startswith("tokenizer, edvae, on shapes:train")]
    assert "held out        20" in first
    words = shlex.split(run.next_command)
    assert words[:2] == ["imagetok", "encode"]
    assert words[words.index("--tokenizer") + 1] == str(run.artifact)
    assert words[words.index("--data") + 1] == "shapes:train,count=160,test_count=20"
    assert read_json_lines(run.folder / "metrics.jsonl")


def test_a_command_loads_the_plugins_of_this_process(monkeypatch):
    monkeypatch.setattr(loading, "_asked", {"my parts.py": "parts"})
    assert command("train", "a b") == "imagetok --plugin 'my parts.py' train 'a b'"
