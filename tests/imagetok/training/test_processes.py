"""Two real processes train what one process trains."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from launcher import launch
from safetensors.torch import load_file, save_file

from imagetok import seeding
from imagetok.config import load_config
from imagetok.evaluation.cifar_resnet import CIFARResNet
from imagetok.quantizers import EdVAEConfig, VQConfig
from imagetok.tokenizers import build_tokenizer
from imagetok.training.config import TokenizerRun

VQEMA = [
    "tokenizer.network.width=8",
    "tokenizer.quantizer.num_codes=16",
    "train.steps=20",
    "train.learning_rate.steps=20",  # also of a run that ends earlier and goes on
    "train.log_every=1",
    "train.evaluate_every=10",
    "train.checkpoint_every=10",
    "train.trackers=[]",
]
CONFIG = Path(__file__).parents[3] / "configs" / "digits" / "vqvae-ema.yaml"


RANKS = """
import sys
from pathlib import Path
from safetensors.torch import save_file
from imagetok.config import load_config
from imagetok.training.config import TokenizerRun
from imagetok.training.job import build_accelerator
from imagetok.training.loop import train
from imagetok.training.run_folder import open_run
from imagetok.training.run_images import RunImages
from imagetok.training.tokenizer import _job

config, run = load_config(sys.argv[1], TokenizerRun, sys.argv[3:]), Path(sys.argv[2])
accelerator = build_accelerator(config.train, run, "cpu")
job = _job(config, run, RunImages(config, run, resume=False), None)
with open_run(run, config, resume=False, is_main=accelerator.is_main_process):
    train(job, config.train, accelerator=accelerator, run=run, seed=0, unit="images")
tensors = {name: value.contiguous() for name, value in job.model.state_dict().items()}
save_file(tensors, run / f"rank{accelerator.process_index}.safetensors")
"""


SIGNALLED = """
import os
import signal
from imagetok.training import step_reduction
from cli.main import main

genuine, steps = step_reduction.combine_outputs, []

def combine(*arguments):
    steps.append(None)
    if os.environ["RANK"] == "1" and len(steps) == 5:
        signal.raise_signal(signal.SIGTERM)
    return genuine(*arguments)

step_reduction.combine_outputs = combine
main()
"""


def run(out: Path, processes: int, *more: str) -> subprocess.CompletedProcess[str]:
    sets = [word for override in VQEMA for word in ("--set", override)]
    return launch(processes, "train", CONFIG, "--out", out, *sets, *more)


@pytest.mark.slow
@pytest.mark.parametrize("averages", ["zeros", "debiased", "ones"])
def test_two_processes_and_micro_batches_average_what_one_batch_does(tmp_path, averages):
    chosen = ("--set", f"tokenizer.quantizer.averages={averages}", "--set", "train.steps=10")
    halves = ("--set", "train.accumulation=2")
    runs = {"one": (1, ()), "two": (2, ()), "halves": (1, halves), "quarters": (2, halves)}
    weights = {}
    for name, (processes, more) in runs.items():
        done = run(tmp_path / name, processes, *chosen, *more)
        assert done.returncode == 0, done.stderr
        weights[name] = load_file(tmp_path / name / "tokenizer" / "model.safetensors")
    for name in ("codebook", "cluster_size", "cluster_sum"):
        expected = weights["one"].pop(f"quantizer.{name}")
        assert expected.any()
        for other in ("two", "halves", "quarters"):
            found = weights[other][f"quantizer.{name}"]
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["mse", "arelbo"])
def test_two_processes_train_what_one_trains(tmp_path, likelihood):
    # Nothing is drawn in VQ-VAE-EMA, so only the order of sums may differ.
    chosen = ("--set", f"tokenizer.likelihood={{kind: {likelihood}}}")
    two, one = run(tmp_path / "two", 2, *chosen), run(tmp_path / "one", 1, *chosen)
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
    first = run(tmp_path / "pair", 2, "--set", "train.steps=10", *chosen)
    assert first.returncode == 0, first.stderr
    second = run(tmp_path / "pair", 2, "--resume", *chosen)
    assert second.returncode == 0, second.stderr
    again = load_file(tmp_path / "pair" / "tokenizer" / "model.safetensors")
    assert all(torch.equal(again[name], weights[1][name]) for name in again)


@pytest.mark.slow
def test_batch_norms_of_two_processes_are_one_model(tmp_path):
    """A resumed pair starts from one file: its two must have been alike when that was written."""
    network = "tokenizer.network={kind: sqvae, form: net_28, width: 16, residual_layers: 1}"
    for out, *more in [("whole",), ("pair", "--set", "train.steps=10"), ("pair", "--resume")]:
        sets = [word for override in VQEMA[1:] for word in ("--set", override)]
        done = launch(2, "train", CONFIG, "--out", tmp_path / out, "--set", network, *sets, *more)
        assert done.returncode == 0, done.stderr
    whole, pair = (
        load_file(tmp_path / out / "tokenizer" / "model.safetensors") for out in ("whole", "pair")
    )
    assert any("running_mean" in name and tensor.any() for name, tensor in whole.items())
    assert all(torch.equal(whole[name], pair[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "init", "reset"),
    [
        ("vqvae-ema", "kmeans", "{kind: random}"),
        ("vqvae", "kmeans", "{kind: least-recently-used, timeout: 2, noise: 0.01}"),
        ("vqste", "data", "{kind: split, every: 2, threshold: 1.0, noise: 0.1}"),
    ],
)
def test_every_process_has_the_same_codebook(tmp_path, config, init, reset):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    sets = [*VQEMA, "train.steps=6", "train.accumulation=2", f"tokenizer.quantizer.init={init}"]
    sets += [f"tokenizer.quantizer.reset={reset}"]
    arguments = (CONFIG.with_name(f"{config}.yaml"), tmp_path / "run", *sets)
    done = launch(2, *arguments, program=(str(script),))
    assert done.returncode == 0, done.stderr
    ranks = [load_file(tmp_path / "run" / f"rank{rank}.safetensors") for rank in (0, 1)]
    assert ranks[0]["quantizer.renewal.started"]
    assert [name for name in ranks[0] if not torch.equal(ranks[0][name], ranks[1][name])] == []


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    done = run(tmp_path / "three", 2, "--set", "train.batch_size=33")
    assert done.returncode != 0
    assert "expected a multiple of 2" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(  # of one batch, a process has none
    ("count", "quantizer", "measure"),
    [(100, EdVAEConfig(), "uncertainty"), (300, VQConfig(), "commitment_norm")],
)
def test_two_processes_measure_what_one_measures(tmp_path, count, quantizer, measure):
    seeding.reseed_global(0)
    config = load_config(CONFIG.parents[1] / "shapes" / "edvae.yaml", TokenizerRun)
    network = config.tokenizer.network.model_copy(update={"width": 8})
    changed = {"network": network, "quantizer": quantizer}
    tokenizer = build_tokenizer(config.tokenizer.model_copy(update=changed))
    tokenizer.eval().save_pretrained(tmp_path / "tokenizer")
    save_file(CIFARResNet(1).state_dict(), tmp_path / "features.safetensors")
    features = f"cifar-resnet={tmp_path / 'features.safetensors'}"
    found = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.json"
        spec = f"shapes:train,count={count}"
        arguments = ["--tokenizer", tmp_path / "tokenizer", "--data", spec, "--out", out]
        arguments += ["--features", features]
        done = launch(processes, "evaluate", *arguments)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(out.read_text())["measures"])
    one, two = found
    assert one["num_images"] == count and measure in one and "perplexity_batch32" in one
    assert one["rfrechet_cifar-resnet8"] > 0
    assert two == pytest.approx(one, rel=1e-6)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_one_step_and_the_run_goes_on(tmp_path):
    script = tmp_path / "signalled.py"
    script.write_text(SIGNALLED)
    sets = [word for override in VQEMA for word in ("--set", override)]
    words = ("train", CONFIG, "--out", tmp_path / "stopped", *sets)
    stopped = launch(2, *words, program=(str(script),))
    assert stopped.returncode != 0
    # It came in the fifth step, was sent in the sixth, and known before the seventh.
    assert "stopped by SIGTERM at step 6 of 20" in stopped.stderr
    names = [path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir()]
    assert names == ["step-00000006"]
    for done in (run(tmp_path / "stopped", 2, "--resume"), run(tmp_path / "whole", 2)):
        assert done.returncode == 0, done.stderr
    weights = [
        load_file(tmp_path / n / "tokenizer" / "model.safetensors") for n in ("stopped", "whole")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
