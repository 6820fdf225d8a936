"""Sweeps: a config beside itself at other values of a key; and plans of older comparisons."""

import json

import pytest

from imagetok.comparison.plan import make_plan
from imagetok.comparison.sweep_configs import sweep_texts
from imagetok.errors import ConfigError

CODES = "tokenizer.quantizer.num_codes"
NAMES = ("digits/edvae", "digits/dvae")


def test_a_value_is_one_more_method():
    plan = make_plan(NAMES, [1], sweeps=[f"{CODES}=32,64,128"])
    sizes = {name: run.tokenizer.levels[0].num_codes for name, run in plan.methods.items()}
    assert sizes == {
        "edvae": 64, "edvae-num_codes-32": 32, "edvae-num_codes-128": 128,
        "dvae": 64, "dvae-num_codes-32": 32, "dvae-num_codes-128": 128,
    }  # fmt: skip


def test_names_tell_keys_apart_that_end_alike():
    ends = ["objective.weights.kl.end=1e-4", "train.learning_rate.end=0.0"]
    plan = make_plan(["digits/edvae"], [1], sweeps=ends)
    assert list(plan.methods) == ["edvae", "edvae-kl.end-0.0001", "edvae-learning_rate.end-0.0"]
    kinds = make_plan(["digits/vqvae"], [1], sweeps=["tokenizer.quantizer.reset={kind: none}"])
    assert list(kinds.methods) in (["vqvae"], ["vqvae", "vqvae-reset-kind-none"])


def test_a_sweep_may_be_a_dict():
    assert sweep_texts({CODES: [32, 128]}) == [f"{CODES}=32, 128"]
    assert sweep_texts([f"{CODES}=32,128"]) == [f"{CODES}=32,128"]


@pytest.mark.parametrize(
    ("sweep", "says"),
    [
        (CODES, "expected KEY=V1,V2"),
        (f"{CODES}=", "expected KEY=V1,V2"),
        (f"{CODES}=32,32", "different values, found 32 twice"),
        (f"{CODES}=0", r"num_codes: Input should be greater than 0"),
        ("tokenizer.quantizer.num_code=8", "did you mean 'num_codes'"),
        ("seed=1,2", "use --seeds"),
        ("train.batch_size=8", "--allow-different train.batch_size"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(sweep, says):
    with pytest.raises(ConfigError, match=says):
        make_plan(["digits/edvae"], [1], sweeps=[sweep])


def test_configs_of_one_name_are_told_apart_by_their_folders():
    names = ["digits/edvae", "papers/edvae/cifar10/edvae", "comparisons/cifar10/edvae"]
    with pytest.raises(
        ConfigError, match="digits-edvae and edvae-cifar10-edvae are not comparable"
    ):
        make_plan(names, [1])


def test_an_older_comparison_keeps_its_lengths(tmp_path, caplog):
    """When its configs still named them, `--set train.steps` did not change them."""
    settings = ["train.steps=5"]
    older = make_plan(NAMES, [1], [*settings, "train.learning_rate.steps=2500"])
    (tmp_path / "plan.json").write_text(json.dumps(older.identity()))
    plan = make_plan(NAMES, [1], settings)
    assert plan.identity() != older.identity()
    assert plan.with_recorded_lengths(tmp_path).identity() == older.identity()
    assert "train.learning_rate.steps stays 2500" in caplog.text
    assert plan.with_recorded_lengths(tmp_path / "new") == plan
