"""`train.compile`: networks and kernels are whole graphs, and a compiled run learns the same."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_resume import tree
from torch.testing import assert_close

from imagetok import configs
from imagetok.config import validate
from imagetok.training.config import TokenizerRun
from imagetok.training.tokenizer import train_tokenizer

NETWORKS = ["digits/vqvae-ema", "shapes/vmf-sqvae", "tiny-imagenet/vqvae2"]
TOKENIZERS = [
    c.name for c in configs() if not c.name.startswith("papers/") and c.tree["kind"] == "tokenizer"
]


@pytest.mark.parametrize(
    "names",
    [NETWORKS, pytest.param(TOKENIZERS, marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_networks_and_kernels_are_whole_graphs_with_the_same_values(names):
    program = Path(__file__).with_name("compiled_models.py")
    done = subprocess.run(
        [sys.executable, program, *names], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == names
    for name, facts in found.items():
        first, second, third = facts["graphs"]
        # Networks of equal code and shapes may share a graph. A kernel may have another one for the
        # step in which its codebook starts; temperatures share one.
        assert 0 < first <= facts["networks"] + facts["kernels"], name
        assert second <= first + facts["kernels"] and third == second, name
        assert facts["is_equal"] and facts["same_names"], name


SIZES = {"num_codes": 8, "code_dim": 4}
RATE = {"kind": "constant", "value": 1e-3}
OPPOSED = {"weight": RATE, "learning_rate": RATE, "layers": 1, "width": 4, "adaptive": True}
STARTED = SIZES | {"kind": "vqvae-ema", "init": "data", "reset": {"kind": "random"}}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(
    ("quantizer", "loss", "adversarial"),
    [(SIZES | {"kind": "edvae"}, "kl", None), (STARTED, "commitment", OPPOSED)],
    ids=["edvae", "vqvae-ema with an adversary"],
)
def test_a_compiled_run_learns_the_same_and_is_resumed_bit_identically(
    quantizer, loss, adversarial, tmp_path
):
    def run(name: str, steps: int, *, resume: bool = False, **changes: object):
        raw = tree(steps=steps, checkpoint_every=2, evaluate_every=2, **changes)
        raw["tokenizer"]["network"]["dropout"] = 0.0  # compiled dropout draws other numbers
        raw["tokenizer"]["quantizer"] = quantizer
        raw["objective"]["weights"] = {loss: {"kind": "constant", "value": 1e-3}}
        raw["objective"]["adversarial"] = adversarial
        config = validate(raw, TokenizerRun, "test")
        train_tokenizer(config, tmp_path / name, resume=resume, device="cpu")
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        measures = [record for record in map(json.loads, lines) if record["split"] == "test"]
        return measures, load_file(tmp_path / name / "tokenizer" / "model.safetensors")

    plain, names = run("plain", 4)
    compiled, weights = run("compiled", 4, compile=True)
    assert names.keys() == weights.keys()
    for one, other in zip(plain, compiled, strict=True):
        assert_close(other["mse"], one["mse"], atol=0, rtol=1e-3)
    run("resumed", 2, compile=True)
    again, same = run("resumed", 4, resume=True, compile=True)
    assert again == compiled
    assert all(torch.equal(weights[name], same[name]) for name in weights)
