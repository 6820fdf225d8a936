"""Quantizers compile as whole graphs: the kernels of all named configs, and of other options."""

import copy
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imagetok import configs
from imagetok.config import validate
from imagetok.quantizers import (
    EdVAEConfig,
    KernelQuantizer,
    Quantized,
    Quantizer,
    build_quantizer,
)
from imagetok.tokenizers import build_autoencoder
from imagetok.tokenizers.flat import FlatTokenizer
from imagetok.training.config import TokenizerRun

SIZES = "num_codes", "code_dim"


def different(tree: Any) -> Any:
    """What a kernel computes: a positive number changes sizes and values, but no operation."""
    match tree:
        case dict():
            return {key: different(value) for key, value in tree.items() if key not in SIZES}
        case list():
            return [different(value) for value in tree]
        case bool() | str() | None:
            return tree
        case _:
            return tree > 0


def named() -> dict[str, dict[str, Any]]:
    """The quantizers of all named configs, one for each form; small, where they have a size."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for config in configs():
        tokenizer = config.tree.get("tokenizer")
        if isinstance(tokenizer, dict):
            for section in (tokenizer.get("quantizer"), *tokenizer.get("quantizers", [])):
                key = json.dumps(different(section), sort_keys=True)
                found.setdefault(key, (config.name, section))
    return {
        name: section | ({"num_codes": 32} if "num_codes" in section else {})
        for name, section in found.values()
        if section
    }


NAMED = named()
SMALL = {"num_codes": 32, "code_dim": 4}
RESETS = "none", "random", "least-recently-used", "split"
OTHERS = {
    "edvae sample": SMALL | {"kind": "edvae", "probabilities": "sample"},
    "edvae softplus": SMALL | {"kind": "edvae", "evidence": "softplus"},
    **{
        f"vqvae {init} {reset}": SMALL | {"kind": "vqvae", "init": init, "reset": {"kind": reset}}
        for init in ("normal", "data")
        for reset in RESETS
    },
    "vqvae entropy": SMALL | {"kind": "vqvae", "init": "normal", "entropy_temperature": 0.01},
    "vqvae-ema zeros": SMALL | {"kind": "vqvae-ema", "averages": "zeros", "init": "data"},
    "vq-ste++ plain": SMALL | {"kind": "vq-ste++", "affine": None, "synchronisation": 0.0},
}
SOME = {"digits/edvae": NAMED["cifar10/edvae"], "digits/vqste": NAMED["digits/vqste"]}


def compiled(backend: str, sections: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    program = Path(__file__).with_name("compiled_kernels.py")
    done = subprocess.run(
        [sys.executable, program, backend, json.dumps(sections)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == list(sections)
    return found


@pytest.mark.parametrize(
    "sections", [SOME, pytest.param(NAMED | OTHERS, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_every_kernel_is_one_graph_with_the_same_bits_in_full_float32(sections):
    pytest.importorskip("vector_quantize_pytorch", reason="the extra `zoo` is not installed")
    for name, facts in compiled("eager", sections).items():
        assert facts["is_equal"], (name, facts["differences"])
        # The second may differ from the first, in which a codebook starts. Temperatures do not.
        first, second, third = facts["graphs"]
        assert first == 1 and second <= 2 and third == second, name
        assert facts["precisions"] == ["ieee"], name


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_kernels_agree_up_to_rounding():
    sections = {
        "edvae": SMALL | {"kind": "edvae"},
        "vqvae-ema": SMALL | {"kind": "vqvae-ema", "init": "normal"},
    }
    for name, facts in compiled("inductor", sections).items():
        differences = facts["differences"]
        assert not any(v for k, v in differences.items() if k.startswith("codes")), name
        assert 0 < max(differences.values()) < 1e-4, (name, differences)


def test_a_copy_of_a_compiled_quantizer_is_not_compiled_and_keeps_its_own_weights():
    quantizer = build_quantizer(EdVAEConfig(num_codes=8, code_dim=4))
    assert isinstance(quantizer, KernelQuantizer)
    names = list(quantizer.state_dict())
    quantizer.compile(backend="eager")
    assert list(quantizer.state_dict()) == names
    for other in (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
        nn.init.zeros_(other.codebook)
        h = torch.zeros(1, 8, 2, 2)
        assert not other(h).z_q.any() and other._compiled is None


class Rounded(Quantizer):
    """A quantizer that writes `forward` itself."""

    num_codes, code_dim, in_channels = (2,), 1, 1

    def forward(self, h: Tensor, *, temperature: float = 1.0, generator: Any = None) -> Quantized:
        return Quantized(h, self.encode(h), {}, {})

    def encode(self, h: Tensor, *, generator: Any = None) -> tuple[Tensor, ...]:
        return ((h[:, 0] > 0).long(),)

    def decode(self, indices: tuple[Tensor, ...]) -> Tensor:
        return indices[0][:, None].float()


def test_a_model_compiles_networks_and_kernels_but_no_quantizer_without_a_kernel():
    run = validate(configs("digits/vqvae").tree, TokenizerRun, "test")
    model = build_autoencoder(run.tokenizer)
    assert isinstance(model, FlatTokenizer)
    kernel, model.other = model.quantizer, Rounded()
    model.compile(backend="eager")
    assert all(network._compiled_call_impl is not None for network in model.networks())
    assert isinstance(kernel, KernelQuantizer) and kernel._compiled is not None
    assert kernel._compiled_call_impl is None and model.other._compiled_call_impl is None
