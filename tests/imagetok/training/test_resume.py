"""A run that is killed at any moment and resumed equals one that was never stopped, bit for bit."""

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from representative import slow_but
from safetensors.torch import load_file

from imagetok.config import validate
from imagetok.data import ImageError
from imagetok.errors import (
    CheckpointError,
    ConfigError,
    DivergedError,
    StoppedError,
)
from imagetok.evaluation.codebook_health import codebook_state
from imagetok.tokenizers import Tokenizer
from imagetok.training import tokenizer as wiring
from imagetok.training.checkpoint import kept_weights
from imagetok.training.config import TokenizerRun
from imagetok.training.tokenizer import train_tokenizer


def tree(**train: object) -> dict:
    """A tiny run with everything that could break resuming: dropout, EMA, micro-batches."""
    return {
        "kind": "tokenizer",
        "seed": 3,
        "data": {"source": "shapes", "count": 160, "test_count": 20},
        "tokenizer": {
            "image": {"mode": "grey", "height": 8, "width": 8},
            "network": {
                "kind": "conv", "width": 8, "groups": 2, "blocks": 1, "dropout": 0.1,
                "init": "torch", "residual_gain": 0.5,
            },
            "quantizer": {"kind": "edvae", "num_codes": 8, "code_dim": 4},
        },
        "objective": {
            "temperature": {"kind": "exponential", "rate": 1.0e-3},
            "weights": {"kl": {"kind": "constant", "value": 1.0e-6}},
        },
        "train": {
            "steps": 12,
            "batch_size": 60,  # 2.7 steps an epoch: steps straddle epochs
            "accumulation": 2,
            "learning_rate": {"kind": "quarter_cosine", "start": 1e-2, "end": 1e-4, "steps": 12},
            "clip_norm": 1.0,
            "ema_decay": 0.9,
            "log_every": 1,
            "evaluate_every": 5,
            "checkpoint_every": 4,
            "trackers": [],
            **train,
        },
    }  # fmt: skip


def config(**train: object) -> TokenizerRun:
    return validate(tree(**train), TokenizerRun, "test")


def vqema(averages: str = "increments", **train: object) -> TokenizerRun:
    raw = tree(**train)
    sizes = {"num_codes": 8, "code_dim": 4}
    raw["tokenizer"]["quantizer"] = {"kind": "vqvae-ema", "averages": averages, **sizes}
    raw["objective"]["weights"] = {"commitment": {"kind": "constant", "value": 0.25}}
    return validate(raw, TokenizerRun, "test")


def checkpoint(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint: weights, average, optimizer."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    tensors = load_file(folder / "model.safetensors") | {
        f"average.{k}": v for k, v in load_file(folder / "average.safetensors").items()
    }
    state = torch.load(folder / "optimizer.bin", weights_only=True)["state"]
    for i, values in state.items():
        tensors |= {f"optimizer.{i}.{k}": v for k, v in values.items()}
    return tensors


def assert_same_run(a: Path, b: Path, step: int) -> None:
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    left, right = checkpoint(a, step), checkpoint(b, step)
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different
    weights = [r / "tokenizer" / "model.safetensors" for r in (a, b)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


DEBIASED = partial(vqema, "debiased")
OTHERS = [partial(vqema, averages) for averages in ("zeros", "ones")]


@pytest.mark.parametrize("stops", [(1, 3, 5), pytest.param((2, 4), marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", slow_but([vqema, DEBIASED], [config, vqema, DEBIASED, *OTHERS]))
def test_resuming_at_every_step_gives_the_same_weights(tmp_path, make, stops):
    train_tokenizer(make(steps=6), tmp_path / "whole")
    expected = checkpoint(tmp_path / "whole", 6)
    for stop in stops:
        run = tmp_path / f"stop{stop}"
        train_tokenizer(make(steps=stop), run)
        train_tokenizer(make(steps=6), run, resume=True)
        found = checkpoint(run, 6)
        assert all(torch.equal(found[name], expected[name]) for name in expected), stop


COMMAND = [sys.executable, "-m", "imagetok", "train"]
SLOW = ["--set", "train.steps=60", "--set", "train.workers=2", "--set", "train.checkpoint_every=7"]


def write_config(folder: Path, make: Callable[[], TokenizerRun] = config) -> Path:
    path = folder / "config.yaml"
    path.write_text(make().model_dump_json())  # JSON is YAML
    return path


def start(path: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, str(path), "--out", str(out), *SLOW, *more],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until metrics.jsonl holds `step` training records."""
    for _ in range(12000):
        path = run / "metrics.jsonl"
        if path.is_file() and path.read_text().count('"train"') >= step:
            return
        if process.poll() is not None:
            pytest.fail(f"ended early: {process.communicate()}")
        time.sleep(0.005)
    pytest.fail("no progress")


@pytest.mark.slow
@pytest.mark.parametrize("make", [config, DEBIASED, *OTHERS])
def test_a_killed_process_resumes_to_the_same_bits(tmp_path, make):
    path = write_config(tmp_path, make)
    whole = start(path, tmp_path / "whole")
    killed = start(path, tmp_path / "killed")
    for step in (11, 38):  # between checkpoints, in the middle of an epoch
        wait_for_step(tmp_path / "killed", step, killed)
        killed.send_signal(signal.SIGKILL)
        killed.wait()  # not for its workers: the folder must be free at once
        assert killed.returncode == -signal.SIGKILL
        killed = start(path, tmp_path / "killed", "--resume")
    assert killed.wait() == 0, killed.communicate()
    assert whole.wait() == 0, whole.communicate()
    assert_same_run(tmp_path / "whole", tmp_path / "killed", 60)
    folders = sorted(p.name for p in (tmp_path / "killed" / "checkpoints").iterdir())
    assert folders == ["step-00000056", "step-00000060"]


@pytest.mark.parametrize("number", slow_but([signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]))
def test_a_signal_stops_with_a_checkpoint(tmp_path, number):
    process = start(write_config(tmp_path), tmp_path / "run", "--set", "train.steps=100000")
    wait_for_step(tmp_path / "run", 9, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=600)  # not after 100,000 steps
    assert process.returncode == 128 + number
    assert "--resume" in errors and "Traceback" not in errors
    records = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in records]
    folders = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert folders[-1] == f"step-{steps[-1]:08d}"


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, caplog):
    run = tmp_path / "run"
    train_tokenizer(config(steps=6), tmp_path / "whole")
    train_tokenizer(config(steps=5), run)
    weights = run / "checkpoints" / "step-00000005" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    train_tokenizer(config(steps=6), run, resume=True)
    assert "step-00000005" in caplog.text
    assert torch.equal(
        checkpoint(run, 6)["quantizer.codebook"],
        checkpoint(tmp_path / "whole", 6)["quantizer.codebook"],
    )


def test_only_damaged_checkpoints_are_refused(tmp_path):
    train_tokenizer(config(steps=4), tmp_path)
    (tmp_path / "checkpoints" / "step-00000004" / "optimizer.bin").unlink()
    with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        train_tokenizer(config(steps=8), tmp_path, resume=True)


def test_a_run_folder_is_not_overwritten_nor_mixed(tmp_path):
    train_tokenizer(config(steps=2), tmp_path / "run")
    with pytest.raises(ConfigError, match="--resume"):
        train_tokenizer(config(steps=2), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"train\.batch_size: 60 in the folder, 30 requested"):
        train_tokenizer(config(steps=4, batch_size=30), tmp_path / "run", resume=True)
    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "run" / "tokenizer").iterdir())
    train_tokenizer(config(steps=2), tmp_path / "run", resume=True)  # already finished
    after = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "run" / "tokenizer").iterdir())
    assert before == after


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    rate = {"kind": "constant", "value": 1e30}
    with pytest.raises(DivergedError, match=r"step 1: .*\n?.*checkpoint: .*step-00000001"):
        train_tokenizer(config(learning_rate=rate, checkpoint_every=1, clip_norm=None), tmp_path)


def test_init_from_starts_at_the_given_weights(tmp_path):
    train_tokenizer(config(), tmp_path / "first")
    rate = {"kind": "constant", "value": 0.0}
    again = config(steps=1, learning_rate=rate, ema_decay=None)
    train_tokenizer(again, tmp_path / "second", init_from=tmp_path / "first" / "tokenizer")
    a, b = (
        load_file(tmp_path / n / "tokenizer" / "model.safetensors") for n in ("first", "second")
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(ConfigError, match=r"quantizer\.kind: 'edvae' there, 'vqvae-ema' here"):
        train_tokenizer(vqema(), tmp_path / "third", init_from=tmp_path / "first" / "tokenizer")


@pytest.mark.parametrize("decay", [0.9, None])
def test_kept_checkpoints_give_the_weights_that_were_evaluated(tmp_path, decay, caplog):
    train_tokenizer(config(ema_decay=decay), tmp_path)
    kept = kept_weights(tmp_path / "checkpoints")
    assert list(kept) == [8, 12]
    exported = Tokenizer.from_pretrained(tmp_path / "tokenizer").state_dict()
    assert kept[12].keys() == exported.keys()
    assert all(torch.equal(kept[12][name], exported[name]) for name in exported)
    assert not all(torch.equal(kept[8][name], exported[name]) for name in exported)
    damaged = tmp_path / "checkpoints" / "step-00000008" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert list(kept_weights(tmp_path / "checkpoints")) == [12]
    assert "damaged checkpoint" in caplog.text


def test_a_codebook_is_judged_while_it_is_trained(tmp_path, caplog):
    caplog.set_level(logging.INFO, "imagetok")
    train_tokenizer(config(), tmp_path)
    told = {}
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["split"] == "test":
            state = codebook_state(record["perplexity"], record["num_codes"], record["num_images"])
            told[record["step"]] = (state, record["codes_used"])
    before = None
    for step, (state, used) in told.items():
        line = f"step {step}: the codebook is {state}: {used} of 8 codes used"
        assert (line in caplog.text) == (state != before)
        before = state


def test_an_older_artifact_is_not_taken_for_the_result(tmp_path):
    train_tokenizer(config(steps=2), tmp_path / "run")
    older = (tmp_path / "run" / "tokenizer" / "model.safetensors").read_bytes()
    shutil.copytree(tmp_path / "run" / "tokenizer", tmp_path / "older")
    train_tokenizer(config(steps=4), tmp_path / "run", resume=True)
    newer = (tmp_path / "run" / "tokenizer" / "model.safetensors").read_bytes()
    assert newer != older
    # as if it had been killed between the last checkpoint and the export
    shutil.rmtree(tmp_path / "run" / "tokenizer")
    shutil.copytree(tmp_path / "older", tmp_path / "run" / "tokenizer")
    (tmp_path / "run" / "finished.json").write_text('{"step": 2}')
    train_tokenizer(config(steps=4), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "tokenizer" / "model.safetensors").read_bytes() == newer


def test_a_stop_during_evaluation_loses_nothing(tmp_path, monkeypatch):
    """The evaluation that was due is made after resuming, once, and remembered."""
    whole = train_tokenizer(config(), tmp_path / "whole")
    original = wiring.evaluate_reconstruction
    for due in (5, 12):
        run = tmp_path / f"run{due}"

        def stopped(tokenizer, dataset, check, due=due, run=run):
            if len((run / "metrics.jsonl").read_text().splitlines()) >= due:
                signal.raise_signal(signal.SIGTERM)
            return original(tokenizer, dataset, check)

        monkeypatch.setattr(wiring, "evaluate_reconstruction", stopped)
        with pytest.raises(StoppedError):
            train_tokenizer(config(), run)
        monkeypatch.setattr(wiring, "evaluate_reconstruction", original)
        assert train_tokenizer(config(), run, resume=True) == whole
        assert train_tokenizer(config(), run, resume=True) == whole  # already finished
        assert_same_run(tmp_path / "whole", run, 12)


def test_weights_that_are_not_finite_stop_the_run_at_an_evaluation(tmp_path):
    rate = {"kind": "constant", "value": 1e38}
    bad = config(steps=1, learning_rate=rate, evaluate_every=1, clip_norm=None, log_every=1)
    with pytest.raises(DivergedError, match=r"weights .* are not finite"):
        train_tokenizer(bad, tmp_path)


def test_a_diverged_run_goes_on_with_a_lower_rate(tmp_path, caplog):
    rate = {"kind": "constant", "value": 1e30}
    train_tokenizer(config(steps=4), tmp_path)
    with pytest.raises(DivergedError):
        train_tokenizer(config(learning_rate=rate, clip_norm=None), tmp_path, resume=True)
    train_tokenizer(config(), tmp_path, resume=True)
    assert (tmp_path / "tokenizer").is_dir()


@pytest.mark.slow  # a process
def test_a_disk_that_takes_no_checkpoint_ends_with_code_5(tmp_path):
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    sets = ["--set", "train.workers=0", "--set", "train.evaluate_every=1000"]
    done = subprocess.run(
        [*COMMAND, str(write_config(tmp_path)), "--out", str(tmp_path / "run"), *SLOW, *sets],
        # Python keeps half a file of bytecode where the whole is too large.
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, preexec_fn=small_files,
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert "could not be written" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_other_training_data_is_refused(tmp_path):
    """Elsewhere the same images are the same run; others of the same names are not."""
    (tmp_path / "images").mkdir()
    for i in range(12):
        wiring.save_grid(torch.full((1, 1, 8, 8), i / 12), tmp_path / "images" / f"{i}.png", 1)
    raw = tree(steps=2, batch_size=4)
    raw["data"] = {"source": "folder", "root": str(tmp_path / "images")}
    train_tokenizer(validate(raw, TokenizerRun, "test"), tmp_path / "run")
    (tmp_path / "images").rename(tmp_path / "moved")
    raw["data"]["root"] = str(tmp_path / "moved")
    raw["train"]["steps"] = 3
    train_tokenizer(validate(raw, TokenizerRun, "test"), tmp_path / "run", resume=True)
    for i in range(12):
        wiring.save_grid(torch.rand(1, 1, 16, 16), tmp_path / "moved" / f"{i}.png", 1)
    raw["train"]["steps"] = 4
    with pytest.raises(CheckpointError, match="other training data"):
        train_tokenizer(validate(raw, TokenizerRun, "test"), tmp_path / "run", resume=True)


def test_a_start_from_given_weights_survives_a_kill_before_the_first_checkpoint(tmp_path):
    train_tokenizer(config(steps=2), tmp_path / "first")
    source = tmp_path / "first" / "tokenizer"
    train_tokenizer(config(steps=3), tmp_path / "whole", init_from=source)
    rate = {"kind": "constant", "value": 1e38}
    bad = config(steps=3, learning_rate=rate, clip_norm=None)
    with pytest.raises(DivergedError):
        train_tokenizer(bad, tmp_path / "again", init_from=source)
    train_tokenizer(config(steps=3), tmp_path / "again", resume=True)
    a, b = (load_file(tmp_path / n / "tokenizer" / "model.safetensors") for n in ("whole", "again"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_test_rule_that_samples_is_reproducible(tmp_path):
    raw = tree(steps=2)
    raw["tokenizer"]["quantizer"]["test_rule"] = "sample"
    sampled = validate(raw, TokenizerRun, "test")
    measures = [train_tokenizer(sampled, tmp_path / name) for name in ("a", "b")]
    assert measures[0] == measures[1]
    tokenizer = Tokenizer.from_pretrained(tmp_path / "a" / "tokenizer")
    assert tokenizer.config.quantizer == sampled.tokenizer.quantizer


def test_an_unreadable_image_stops_training_but_loses_nothing(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(12):
        wiring.save_grid(torch.full((1, 1, 8, 8), i / 12), tmp_path / "images" / f"{i}.png", 1)
    good = (tmp_path / "images" / "4.png").read_bytes()
    (tmp_path / "images" / "4.png").write_bytes(b"x" * len(good))
    raw = tree(steps=10, batch_size=2, checkpoint_every=1000, evaluate_every=1000, workers=1)
    raw["data"] = {"source": "folder", "root": str(tmp_path / "images")}
    run = validate(raw, TokenizerRun, "test")
    with pytest.raises(ImageError, match=r"4\.png"):
        train_tokenizer(run, tmp_path / "run", check=0)
    (tmp_path / "images" / "4.png").write_bytes(good)
    train_tokenizer(run, tmp_path / "run", resume=True)
    train_tokenizer(run, tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "run", 10)
