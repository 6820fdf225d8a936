"""What a run says before it starts, a dry run of it, and what it says when it ends."""

import logging
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_resume import tree

import imagetok
from imagetok.data.noise import NoiseImages
from imagetok.errors import ConfigError, InputError
from imagetok.images import ImageContract, pixels_text
from imagetok.plugins import loading
from imagetok.training import estimate
from imagetok.training.config_input import config_of_run
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


def test_a_dry_run_without_images_shows_what_is_known_and_what_is_missing(here):
    config = tree(steps=10) | {"data": {"source": "folder", "root": "missing"}}
    found = imagetok.train(config, dry_run=True, device="cpu", progress=False)
    known = imagetok.train(tree(steps=10), dry_run=True, device="cpu", progress=False)
    assert isinstance(found.refusal, InputError) and "missing" in str(found.refusal)
    assert known.refusal is None
    assert found.facts == replace(
        known.facts, data=found.facts.data, images=None, held_out=None, class_names=None
    )
    assert found.seconds == pytest.approx(10 * found.seconds_per_step)
    rows = found.rows()
    assert rows["images"] == rows["held out"] == rows["classes"] == "unknown"
    assert rows["steps"] == "10 of 60 images"
    assert not list(here.iterdir())
    with pytest.raises(InputError) as refused:
        imagetok.train(config, out="run", device="cpu", progress=False)
    assert str(refused.value) == str(found.refusal)


@pytest.mark.parametrize("mode", ["rgb", "grey", "labels"])
def test_noise_has_the_form_of_the_images(mode):
    labels = {"num_classes": 3, "interpolation": "nearest"} if mode == "labels" else {}
    image = ImageContract(mode=mode, height=4, width=6, **labels)
    batch = NoiseImages(image).__getitems__([5, 7])
    assert batch.images.shape == (2, image.channels, 4, 6)
    assert batch.indices.tolist() == [5, 7]
    assert int(batch.images.max()) < (image.num_classes or 256)


def test_few_steps_are_enough_where_a_step_takes_minutes(monkeypatch):
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: float(next(clock)))
    taken = list(estimate._seconds(iter([None] * 10), torch.device("cpu"), limit=10.0))
    assert taken == [100.0]


def test_a_run_of_another_folder_is_found_by_its_config(here):
    assert config_of_run(Path("runs/digits-edvae")).where == "digits/edvae"  # pyright: ignore
    assert config_of_run(Path("runs/mine")) is None
    Path("mine.yaml").write_text("kind: tokenizer")
    assert config_of_run(Path("runs/mine")).where == "mine.yaml"  # pyright: ignore
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/config.yaml").write_text("kind: tokenizer")
    assert config_of_run(Path("runs/mine")).where == "runs/mine/config.yaml"  # pyright: ignore


def test_a_run_begins_with_its_facts_and_names_the_next_command(here, caplog, monkeypatch):
    monkeypatch.setattr(loading, "_asked", {})
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


def test_steps_too_large_to_try_are_measured_with_fewer_images(here, monkeypatch):
    config = tree(steps=10, accumulation=1)
    whole = imagetok.train(config, dry_run=True, device="cpu", progress=False)
    assert whole.measured_images is None and "proportion" not in str(whole.rows())
    stored = []
    stored_bytes = estimate._stored_bytes

    def noted(*args: object) -> int:
        stored.append(stored_bytes(*args))  # pyright: ignore[reportArgumentType]
        return stored[-1]

    monkeypatch.setattr(estimate, "_stored_bytes", noted)
    monkeypatch.setattr(estimate, "LARGEST", 1)
    found = imagetok.train(config, dry_run=True, device="cpu", progress=False)
    assert found.measured_images == 1
    assert "in proportion to steps of 1 image" in found.rows()["a step"]
    assert found.facts == whole.facts
    assert found.seconds > 10 * found.seconds_per_step
    assert found.peak_memory_mb >= 59 * stored[0] / 2**20
    monkeypatch.setattr(estimate, "LARGEST", 7 * stored[0])
    assert imagetok.train(config, dry_run=True, device="cpu", progress=False).measured_images == 7
    monkeypatch.setattr(estimate, "LARGEST", 60 * stored[0])
    assert imagetok.train(config, dry_run=True, device="cpu").measured_images is None
    assert len({*stored}) == 1 and not list(here.iterdir())
