"""Processes of one run that were started differently, see different data, never come, or end."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[2]
Found = dict[str, dict[str, Any]]

# attack: exit code, and what every process says
FEW = {
    "encode_other_images": (3, ["source_identity: '", "in process 0 on", "in process 1 on"]),
    "encode_other_shards": (2, ["plan.samples_per_shard: 4 in", "3 in process 1"]),
}
MORE = {
    "encode_fewer_images": (3, ["num_inputs: 12 in process 0", "9 in process 1"]),
    "encode_other_pixels_of_one_size": (3, ["some inputs: '"]),
    "encode_other_allowance": (2, ["max_skips: 0 in", "2 in process 1"]),
    "encode_other_tokenizer": (3, ["tokenizer.fingerprint: '"]),
    "encode_other_folder": (3, ["plan.json in the output folder: ", "'no such file' in"]),
    "encode_other_version": (2, ["versions.imagetok: '1.0' in", "'1.1' in process 1"]),
    "sample_other_seed": (2, ["samples.seed: 1 in", "2 in process 1"]),
    "sample_other_prior": (3, ["prior: '", "tokenizer: '"]),
    "sample_other_batches": (2, ["batch_size: 2 in", "3 in process 1"]),
    "sample_other_folder": (3, ["samples.json in the output folder: 'there' in"]),
    "sample_as_codes": (3, ["num_inputs: 5 in", "6 in process 1"]),
    "evaluate_other_images": (3, ["data_identity: '", "some images: '"]),
    "evaluate_other_tokenizer": (3, ["tokenizer: '"]),
    "evaluate_other_samples": (3, ["samples: '"]),
    "train_other_images": (3, ["training images: '"]),
    "train_other_config": (2, ["config.seed: 0 in", "7 in process 1", "clip_norm: None in"]),
    "train_resumed_without_checkpoints": (3, ["'step-00000002' in process 0", "None in process"]),
    "train_prior_on_other_codes": (3, ["training codes: '", "held-out codes: '"]),
}
GOOD = ["encode_moved_images", "train_moved_images"]
NOTHING_LEFT = {*FEW, *MORE} - {"encode_other_folder"}


def attack(folder: Path, *names: str) -> Found:
    """How each attack ended; see `rank_attacks`."""
    root = TESTS.parent
    done = subprocess.run(
        [sys.executable, str(TESTS / "rank_attacks.py"), str(folder), *names],
        env=os.environ
        | {"PYTHONPATH": f"{root}:{TESTS}", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=580,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Found:
    more = ("second_that_never_comes", "last_is_killed")
    return attack(tmp_path_factory.mktemp("few"), *FEW, *more)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Found:
    more = ("first_that_never_comes", "first_is_killed", "hangs_after_a_peer_ended")
    return attack(tmp_path_factory.mktemp("many"), *GOOD, *MORE, *more)


def check_refusal(found: dict[str, Any], code: int, texts: list[str]) -> None:
    assert found["codes"] == {"0": code, "1": code}, found
    for said in found["said"].values():
        assert said.count("the processes of this run ") == 1, said
        assert "Traceback" not in said and "bug in imagetok" not in said
        assert all(text in said for text in texts), said


@pytest.mark.parametrize("name", FEW)
def test_processes_that_do_not_fit_together_are_refused(few, name):
    check_refusal(few[name], *FEW[name])
    assert few[name]["left"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_whatever_differs_is_refused(many, name):
    check_refusal(many[name], *MORE[name])
    if name in NOTHING_LEFT:
        assert many[name].get("left", []) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD)
def test_the_same_images_elsewhere_are_no_difference(many, name):
    assert many[name]["codes"] == {"0": 0, "1": 0}, many[name]


def test_a_process_that_never_comes_is_named(few):
    found = few["second_that_never_comes"]
    assert found["codes"] == {"0": 5}
    assert "waiting for 1 of 2 processes (process 1)" in found["said"]["0"]
    assert "error: waited 1 s for 1 of 2 processes (process 1); start all" in found["said"]["0"]


@pytest.mark.slow
def test_a_first_process_that_never_comes_is_named(many):
    found = many["first_that_never_comes"]
    assert found["codes"] == {"1": 5}
    assert "process 1 waited 1 s for the first of 2 processes, at MASTER" in found["said"]["1"]


def check_notice(found: dict[str, Any], doomed: int) -> None:
    codes = {str(rank): 5 for rank in range(3)} | {str(doomed): -9}
    assert found["codes"] == codes, found
    assert found["shards"] < 20  # of the 40 that the other two had to write
    for rank in {"0", "1", "2"} - {str(doomed)}:
        assert f"process {doomed} of this run ended before the work" in found["said"][rank]


def test_a_killed_process_ends_the_encoding_of_the_others(few):
    check_notice(few["last_is_killed"], 2)


@pytest.mark.slow
def test_a_killed_first_process_does_so_too(many):
    check_notice(many["first_is_killed"], 0)


@pytest.mark.slow
def test_one_that_hangs_after_another_was_killed_is_ended(many):
    found = many["hangs_after_a_peer_ended"]
    assert found["codes"] == {"0": 5, "1": -9}
    assert "process 1 of this run ended" in found["said"]["0"]
