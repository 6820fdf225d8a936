"""Every file in configs/ loads, builds, and says how to run it; those of the papers' tables are as
they are described, as large as the papers' models, and train.
"""

import importlib
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from imagetok import seeding
from imagetok.config import apply_overrides, differences, read_yaml, validate
from imagetok.data import ImageBatch
from imagetok.tokenizers import Autoencoder, TokenizerConfig, build_autoencoder
from imagetok.training.config import TokenizerRun
from imagetok.training.optim import build_optimizer
from imagetok.training.tokenizer import loss_function
from prior.build import build_prior
from prior.config import PriorConfig, PriorRun

ROOT = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.yaml"))


@cache
def tree_of(name: str) -> dict[str, Any]:
    return read_yaml(ROOT / name)


@cache
def run_of(name: str) -> TokenizerRun | PriorRun:
    is_tokenizer = tree_of(name)["kind"] == "tokenizer"
    return validate(tree_of(name), TokenizerRun if is_tokenizer else PriorRun, name)


@cache
def built(config: TokenizerConfig) -> Autoencoder:
    """Nothing is allocated: many are large."""
    with torch.device("meta"):
        return build_autoencoder(config)


@pytest.mark.parametrize("name", CONFIGS)
def test_config_loads_and_builds(name):
    run = run_of(name)
    if isinstance(run, TokenizerRun):
        expected = [
            level.num_codes
            for level in run.tokenizer.levels
            for _ in range(getattr(level, "num_levels", 1))
        ]
        assert list(built(run.tokenizer).num_codes) == expected
    else:
        levels = 2 if run.model.kind == "hierarchy" else 1
        architecture = PriorConfig(
            tokenizer_fingerprint="0" * 64,
            num_codes=(512,) * levels,
            grids=((4, 4), (8, 8))[-levels:],
            num_classes=10,
            model=run.model,
        )
        with torch.device("meta"):
            assert build_prior(architecture).config == architecture


@pytest.mark.parametrize("name", CONFIGS)
def test_header_holds_the_command_that_runs_it(name):
    lines = [line for line in (ROOT / name).read_text().splitlines() if line.startswith("#")]
    commands = [line.strip("# ") for line in lines if "imagetok train" in line]
    assert commands, "no command in the header"
    assert shlex.split(commands[-1])[2] == f"configs/{name}"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_file_states_every_key(name):
    """So that nobody has to know the defaults, and a changed default changes no experiment."""
    assert differences(run_of(name).model_dump(mode="json"), tree_of(name)) == {}


def test_an_installation_has_every_folder():
    files = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["setuptools"]
    expected = {f"configs/{Path(name).parent}" for name in CONFIGS}
    assert {f"share/imagetok/{folder}" for folder in expected} == files["data-files"].keys()
    assert [[f"{folder}/*.yaml"] for folder in sorted(expected)] == [*files["data-files"].values()]


def test_files_of_the_tables_are_as_described(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    assert importlib.import_module("make").drift() == []  # else run: python configs/make.py


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cifar10/edvae", 5_195_907),
        ("celeba/dvae", 5_195_907),
        ("lsun-church/edvae", 5_211_267),
        ("cifar10/edvae-paper/edvae-codes-128", 4_992_771),
        ("cifar10/edvae-paper/edvae-codes-2048", 6_008_451),
        ("celeba/edvae-paper/dvae-dim-256", 5_472_387),
        ("cifar10/gs-vqvae", 609_427),
        ("mnist/sqvae", 240_386),
        ("fashion-mnist/sqvae", 248_578),
        ("cifar10/sqvae-paper/sqvae-i", 341_252),
        ("celeba/sqvae-paper/sqvae-i", 630_532),
        ("celeba/sqvae-paper/sqvae-iii", 671_876),
        ("kaokore/vqvae", 1_260_931),
        ("kaokore/vqvae2", 1_388_867),
    ],
)
def test_models_have_the_sizes_of_the_papers(name, parameters):
    """Counted in the released code."""
    run = run_of(f"{name}.yaml")
    assert isinstance(run, TokenizerRun)
    assert sum(p.numel() for p in built(run.tokenizer).parameters()) == parameters


def families() -> dict[str, TokenizerRun]:
    """One run of each network and quantizer."""
    runs = (run_of(name) for name in CONFIGS)
    return {
        f"{run.tokenizer.network.kind} {run.tokenizer.method[-1]}": run
        for run in runs
        if isinstance(run, TokenizerRun)
    }


@pytest.mark.parametrize("run", families().values(), ids=families().keys())
def test_a_step_of_a_small_version_moves_encoder_and_decoder(run):
    small = ["tokenizer.image.height=16", "tokenizer.image.width=16", "tokenizer.network.width=32"]
    if "num_codes" in getattr(type(run.tokenizer.quantizer), "model_fields", {}):
        small.append("tokenizer.quantizer.num_codes=16")
    tree = apply_overrides(run.model_dump(mode="json"), small)
    config = validate(tree, TokenizerRun, "small").tokenizer
    seeding.reseed_global(0, "init")
    model = build_autoencoder(config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    stored = torch.randint(0, config.image.num_classes or 256, (4, config.image.channels, 16, 16))
    batch = ImageBatch(stored.byte(), None, None)
    loss = loss_function(run.objective, config.image, model.num_codes)
    optimizer = build_optimizer(model, run.train.optimizer)
    optimizer.param_groups[0]["lr"] = run.train.learning_rate.at(1)
    output = loss(model, batch, 1, seeding.generator(0, "noise"))
    output.loss.backward()
    optimizer.step()
    assert output.loss.isfinite()
    still = [
        name
        for name, p in model.named_parameters()
        if name.endswith("weight") and p.ndim == 4 and torch.equal(p, before[name])
    ]
    if run.tokenizer.method[-1] == "fsq":  # it starts at the code of zeros: no first weight acts
        still = [name for name in still if not name.startswith("decoder.layers.0.")]
    assert still == []
