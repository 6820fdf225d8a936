"""Two real processes train what one process trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

VQEMA = [
    "tokenizer.network.width=8",
    "tokenizer.quantizer.num_codes=16",
    "train.steps=20",
    "train.log_every=1",
    "train.evaluate_every=10",
    "train.checkpoint_every=10",
    "train.trackers=[]",
]
CONFIG = Path(__file__).parents[3] / "configs" / "digits" / "vqvae-ema.yaml"


def run(out: Path, processes: int, *more: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc_per_node", str(processes), "-m", "cli.main"]
    sets = [word for override in VQEMA for word in ("--set", override)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "train", str(CONFIG), "--out", str(out), *sets, *more],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path):
    # Nothing is drawn in VQ-VAE-EMA, so only the order of sums may differ.
    two, one = run(tmp_path / "two", 2), run(tmp_path / "one", 1)
    assert two.returncode == 0, two.stderr
    assert one.returncode == 0, one.stderr
    assert two.stderr.count("processes: 2") == 1
    assert "processes: 1" in one.stderr
    records = [
        [json.loads(line) for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("one", "two")
    ]
    assert len(records[0]) == len(records[1]) == 22
    for a, b in zip(*records, strict=True):
        assert a["mse"] == pytest.approx(b["mse"], rel=1e-3), a["step"]
        assert a.get("num_images") == b.get("num_images")
    weights = [load_file(tmp_path / n / "tokenizer" / "model.safetensors") for n in ("one", "two")]
    torch.testing.assert_close(
        weights[0]["quantizer.codebook"], weights[1]["quantizer.codebook"], rtol=1e-2, atol=1e-4
    )
    # and a resumed pair is the same pair, bit for bit
    first = run(tmp_path / "pair", 2, "--set", "train.steps=10")
    assert first.returncode == 0, first.stderr
    second = run(tmp_path / "pair", 2, "--resume")
    assert second.returncode == 0, second.stderr
    again = load_file(tmp_path / "pair" / "tokenizer" / "model.safetensors")
    assert all(torch.equal(again[name], weights[1][name]) for name in again)


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    done = run(tmp_path / "three", 2, "--set", "train.batch_size=33")
    assert done.returncode != 0
    assert "use a multiple of 2" in done.stderr
