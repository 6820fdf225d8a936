"""Priors whose weights are distributed over processes: the same training, the same files."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.dataclasses import get_module_class_from_name
from launcher import launch
from prior_shapes import SHAPES
from safetensors.torch import load_file
from test_prior_training import encode_random, make_run
from torch.testing import assert_close

from imagetok.config import apply_overrides
from imagetok.errors import ConfigError
from imagetok.named_configs import catalogue, configs_folder, find_config
from imagetok.training.config import TrainConfig
from imagetok.training.schedules import Constant
from imagetok.training.sharding import refuse_sharding, set_up_sharding, without_weights

LAUNCHER = configs_folder() / "accelerate"
RANKS = str(Path(__file__).with_name("sharded_ranks.py"))
STEPS, KILLED = 8, 6
MODELS = {
    "gpt": {"kind": "gpt", "layers": 2, "heads": 2, "width": 16, "dropout": 0.0},
    "pixelsnail": {"kind": "pixelsnail", "width": 8, "blocks": 2, "units": 1, "kernel_size": 3,
                   "attention": True, "heads": 2, "dropout": 0.0},
}  # fmt: skip


def settings(file: str, section: str, prefix: str) -> dict[str, str]:
    """The environment that `accelerate launch` makes of its config."""
    tree = yaml.safe_load((LAUNCHER / file).read_text())
    assert tree["mixed_precision"] == "no"
    return {
        prefix + key.removeprefix("fsdp_").upper(): str(value).lower() if value in (True, False)
        else str(value)
        for key, value in tree[section].items()
    }  # fmt: skip


def config_of(model: str, folder: Path, tokenizer: Path) -> Path:
    """A run's config; nothing in it is drawn, so that processes train what one trains."""
    codes = folder / "codes"
    encode_random(tokenizer, codes, 40)
    run = make_run(codes, tokenizer, model=MODELS[model], label_dropout=0.0)
    overrides = [f"train.steps={STEPS}", "train.log_every=1", "train.clip_norm=0.5"]
    overrides += ["train.evaluate_every=4", "train.checkpoint_every=4", "train.accumulation=2"]
    tree = apply_overrides(run.model_dump(mode="json"), overrides)
    path = folder / "prior.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "prior" / "model.safetensors")


FSDP = {"ACCELERATE_USE_FSDP": "true", **settings("fsdp.yaml", "fsdp_config", "FSDP_")}
DEEPSPEED = {
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
    "DS_ACCELERATOR": "cpu",
}
needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="needs deepspeed, which compiles a part for CPUs"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "environment"),
    [
        pytest.param("gpt", FSDP, id="gpt with fsdp"),
        pytest.param("pixelsnail", FSDP, id="pixelsnail with fsdp"),
        *(
            pytest.param(
                "gpt",
                DEEPSPEED | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": stage},
                id=f"gpt with zero {stage}",
                marks=needs_deepspeed,
            )
            for stage in "23"
        ),
    ],
)
def test_distributed_weights_become_what_one_process_trains_also_after_a_kill(
    model, environment, tmp_path, tokenizer_folder
):
    config = config_of(model, tmp_path, tokenizer_folder)
    accumulation = () if environment is FSDP else ("--set", "train.accumulation=1")

    def train(out: str, *more: str, **variables: str) -> Any:
        words = ["train", config, "--out", tmp_path / out, *accumulation, *more]
        return launch(2, *words, program=(RANKS,), environment=environment | variables)

    whole = train("whole")
    assert whole.returncode == 0, whole.stderr
    killed = train("killed", KILL_AT=str(KILLED))
    assert killed.returncode != 0
    assert not (tmp_path / "killed" / "prior").exists()
    resumed = train("killed", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from" in resumed.stderr

    kept = [p.name for p in (tmp_path / "whole" / "checkpoints" / f"step-{STEPS:08d}").iterdir()]
    assert "model.safetensors" not in kept  # weights really were distributed
    found, again = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(found[name].equal(again[name]) for name in found)
    logs = [(tmp_path / run / "metrics.jsonl").read_bytes() for run in ("whole", "killed")]
    assert logs[0] == logs[1]

    alone = launch(1, "train", config, "--out", tmp_path / "alone", *accumulation)
    assert alone.returncode == 0, alone.stderr
    assert_close(found, weights(tmp_path / "alone"), rtol=1e-4, atol=2e-5)
    expected = (tmp_path / "alone" / "metrics.jsonl").read_text().splitlines()
    for a, b in zip(map(json.loads, logs[0].splitlines()), map(json.loads, expected), strict=True):
        assert a.pop("split") == b.pop("split")
        assert a == pytest.approx(b, rel=1e-4)


@pytest.fixture
def distributed(monkeypatch):
    """distributed(kind, **state): an accelerator that was told to distribute weights."""

    def make(kind: DistributedType, **state: Any) -> Accelerator:
        accelerator = Accelerator(cpu=True)
        for place in (AcceleratorState, PartialState):
            monkeypatch.setitem(place._shared_state, "distributed_type", kind)
        for name, value in state.items():
            monkeypatch.setitem(AcceleratorState._shared_state, name, value)
        return accelerator

    return make


def train_config(**changes: Any) -> TrainConfig:
    given = {"steps": 1, "batch_size": 4, "learning_rate": Constant(value=0.1)}
    return TrainConfig(**given | changes)


@pytest.mark.parametrize(
    ("plugin", "changes", "says"),
    [
        ({}, {"ema_decay": 0.9}, r"train\.ema_decay: expected null, because FSDP .* found 0\.9"),
        ({"fsdp_version": 1}, {}, "fsdp_version: expected 2, found 1; see configs/accelerate/fsdp"),
        ({"state_dict_type": "SHARDED_STATE_DICT"}, {}, "FULL_STATE_DICT, because other checkp"),
    ],
)
def test_what_fsdp_does_not_allow_is_refused_by_name(distributed, plugin, changes, says):
    given = {"fsdp_version": 2, "state_dict_type": "FULL_STATE_DICT"} | plugin
    accelerator = distributed(
        DistributedType.FSDP, fsdp_plugin=FullyShardedDataParallelPlugin(**given)
    )
    with pytest.raises(ConfigError, match=says):
        set_up_sharding(accelerator, train_config(**changes))


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_tokenizers_are_not_distributed(distributed, kind):
    with pytest.raises(ConfigError, match=r"tokenizer cannot be trained with .* codebook"):
        refuse_sharding(distributed(kind))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"accumulation": 2}, r"accumulation: expected 1 with DeepSpeed.* found 2"),
        ({"precision": "bf16"}, r"precision: expected fp32 with DeepSpeed, found bf16"),
        ({"ema_decay": 0.9}, r"ema_decay: expected null, because DeepSpeed .* found 0\.9"),
    ],
)
def test_what_deepspeed_does_not_allow_is_refused_by_name(distributed, changes, says):
    with pytest.raises(ConfigError, match=says):
        set_up_sharding(distributed(DistributedType.DEEPSPEED), train_config(**changes))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_repeated_blocks_of_every_prior_are_found_by_name(named, shape):
    prior = named(shape)
    names = prior._no_split_modules
    assert names
    for name in names:
        assert get_module_class_from_name(prior, name) in prior.block_layers


@pytest.mark.parametrize("shape", ["gpt-rotary", "pixelsnail", "hierarchy"])
def test_a_copy_without_weights_becomes_the_model_with_them(named, random_codes, shape):
    prior = named(shape)
    codes, labels = random_codes(prior, 2), torch.zeros(2, dtype=torch.int64)
    expected = prior(codes, labels)
    empty = without_weights(prior)
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert not any(parameter.is_meta for parameter in prior.parameters())
    empty.load_state_dict(prior.state_dict(), strict=True, assign=True)
    for a, b in zip(empty(codes, labels), expected, strict=True):
        assert a.equal(b)


def test_settings_of_the_launcher_are_no_configs():
    assert sorted(path.name for path in LAUNCHER.iterdir()) == ["deepspeed.yaml", "fsdp.yaml"]
    assert not [name for name in catalogue.configs() if name.name.startswith("accelerate/")]
    with pytest.raises(ConfigError, match="accelerate/fsdp"):
        find_config("accelerate/fsdp")
