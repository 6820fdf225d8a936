"""Every file in configs/ loads, builds, and says how to run it."""

import shlex
from pathlib import Path

import pytest

from imagetok.config import differences, load_config, read_yaml
from imagetok.tokenizers import build_autoencoder
from imagetok.training.config import TokenizerRun
from prior.build import build_prior
from prior.config import PriorConfig, PriorRun

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*/*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_config_loads_and_builds(path):
    if read_yaml(path)["kind"] == "tokenizer":
        config = load_config(path, TokenizerRun)
        tokenizer = build_autoencoder(config.tokenizer)
        expected = [
            level.num_codes
            for level in config.tokenizer.levels
            for _ in range(getattr(level, "num_levels", 1))
        ]
        assert list(tokenizer.num_codes) == expected
    else:
        run = load_config(path, PriorRun)
        architecture = PriorConfig(
            tokenizer_fingerprint="0" * 64,
            num_codes=(512,),
            grids=((8, 8),),
            num_classes=10,
            model=run.model,
        )
        assert build_prior(architecture).config == architecture


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_header_holds_the_command_that_runs_it(path):
    lines = [line for line in path.read_text().splitlines() if line.startswith("#")]
    commands = [line.strip("# ") for line in lines if "imagetok train" in line]
    assert commands, "no command in the header"
    words = shlex.split(commands[-1])
    assert words[2] == f"configs/{path.parent.name}/{path.name}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_file_states_every_key(path):
    """So that nobody has to know the defaults, and a changed default changes no experiment."""
    stated = read_yaml(path)
    cls = TokenizerRun if stated["kind"] == "tokenizer" else PriorRun
    assert differences(load_config(path, cls).model_dump(mode="json"), stated) == {}
