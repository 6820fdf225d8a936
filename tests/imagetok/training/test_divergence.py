"""A run that diverged to finite nonsense ends with exit code 6, and nothing is exported."""

from pathlib import Path
from typing import Any

import pytest
from scripted import evaluated, finished, run_scripted
from test_resume import config

from imagetok.errors import DivergedError
from imagetok.training.divergence import GROWTH, HOPELESS, DivergenceLimits
from imagetok.training.tokenizer import train_tokenizer

LIMITS = DivergenceLimits("bits", most=10.0, noticed=1.0)


def scripted(folder: Path, bits: dict[int, float], **changes: Any) -> dict[str, float | int]:
    """A run of as many steps as there are measures, evaluated and saved at every step."""
    every: dict[str, Any] = {"evaluate_every": 1, "checkpoint_every": 1, "export": "last"}
    return run_scripted(folder, bits, **{"steps": max(bits), "limits": LIMITS} | every | changes)


@pytest.mark.parametrize("rate", [0.5, 5.0])
def test_a_constant_rate_that_is_far_too_high_is_no_success(tmp_path, rate):
    """As it was found: finite weights, a test MSE of 1e29 on pixels in [0, 1], and exit code 0."""
    high = {"kind": "constant", "value": rate}
    with pytest.raises(DivergedError, match=r"the held-out mse is .* does not exceed 1") as told:
        train_tokenizer(config(learning_rate=high, clip_norm=None, ema_decay=None), tmp_path)
    assert told.value.exit_code == 6
    assert not (tmp_path / "tokenizer").exists()
    assert not (tmp_path / "finished.json").exists()


@pytest.mark.parametrize(
    ("last", "says"),
    [
        (10.1, r"bits is 10\.1; .* does not exceed 10"),
        (1e29, r"bits is 1e\+29; .* does not exceed 10"),
        (GROWTH * 0.05 + 0.1, r"bits is 5\.1, but was 0\.05 before"),
    ],
)
def test_nonsense_is_not_exported_and_the_best_checkpoint_is_named(tmp_path, last, says):
    run = tmp_path / "run"
    with pytest.raises(DivergedError, match=says) as told:
        scripted(run, {1: 3.0, 2: 0.05, 3: 2.0, 4: last})
    assert not (run / "artifact").exists()
    assert not (run / "finished.json").exists()
    assert "with a held-out bits of 0.05 (delete the later ones" in str(told.value)
    assert f": {run}/checkpoints/step-00000002. Continue" in str(told.value)
    # It goes on from the last checkpoint, which is from before the evaluation, and may end well.
    assert scripted(run, {4: 0.04}) == {"bits": 0.04}
    assert finished(run) == {"step": 4, "exported": 4}


def test_the_best_weights_are_exported_whatever_came_after_them(tmp_path):
    assert scripted(tmp_path / "run", {1: 3.0, 2: 2.0, 3: 99.0}, export="best") == {"bits": 2.0}
    assert finished(tmp_path / "run") == {"step": 3, "exported": 2}


@pytest.mark.parametrize(
    "bits",
    [
        {1: 30.0, 2: 20.0, 3: 10.0},  # learns late
        {1: 3.0, 2: 1e4, 3: 2.0},  # recovers
        {1: 1e-6, 2: 1e-6, 3: 0.9},  # grew, and is good
        {1: 0.5, 2: 0.5, 3: 9.0},  # worse, by less than an order or two
    ],
)
def test_runs_that_end_well_are_as_they_were(tmp_path, bits):
    assert scripted(tmp_path / "run", bits) == {"bits": bits[3]}


def test_hopeless_measures_end_a_run_before_good_checkpoints_are_gone(tmp_path):
    run = tmp_path / "run"
    bits = {1: 3.0, 2: 2.0, 3: 11.0 * HOPELESS} | {step: 1.0 for step in range(4, 9)}
    with pytest.raises(
        DivergedError, match=r"step 3: .* with a held-out bits of 2: .*step-00000002"
    ):
        scripted(run, bits)
    assert evaluated(run) == [1, 2, 3]
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == [
        "step-00000001",
        "step-00000002",
    ]


def test_a_finished_run_stays_finished(tmp_path):
    """As of an earlier version, which exported whatever it had."""
    run = tmp_path / "run"
    scripted(run, {1: 3.0, 2: 1e29}, limits=None)
    assert scripted(run, {1: 3.0, 2: 1e29}) == {"bits": 1e29}
    assert (run / "artifact").is_dir()


def test_a_run_without_a_checkpoint_is_not_told_to_go_on_from_one(tmp_path):
    with pytest.raises(DivergedError, match="no checkpoint to continue from") as told:
        scripted(tmp_path / "run", {1: 11.0 * HOPELESS}, checkpoint_every=9)
    assert "--resume" not in str(told.value)
