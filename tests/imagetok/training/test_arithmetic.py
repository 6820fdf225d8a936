"""`train.precision` and `train.deterministic`: what they mean, and that the steps run so."""

import logging

import pytest
import scripted
import torch
from safetensors.torch import load_file
from test_resume import config as run_config
from test_resume import tree

from imagetok.config import differences, validate
from imagetok.errors import ConfigError
from imagetok.training.config import TokenizerRun, TrainConfig
from imagetok.training.tokenizer import train_tokenizer

BASE = {"steps": 4, "batch_size": 4, "learning_rate": {"kind": "constant", "value": 0.1}}


def config(**changes: object) -> TrainConfig:
    return validate(BASE | changes, TrainConfig, "test")


def trained(folder, **changes: object) -> dict[str, torch.Tensor]:
    scripted.run_scripted(folder, {2: 1.0, 4: 0.5}, steps=4, **changes)
    return load_file(folder / "artifact" / "weights.safetensors")


def settings() -> tuple[str, str, bool]:
    backends = torch.backends
    return (
        backends.cudnn.conv.fp32_precision,
        backends.cuda.matmul.fp32_precision,
        torch.are_deterministic_algorithms_enabled(),
    )


@pytest.mark.parametrize(
    ("keys", "autocast"),
    [
        ({}, "no"),
        ({"mixed_precision": "bf16"}, "bf16"),
        ({"precision": "fp32"}, "no"),
        ({"precision": "tf32"}, "no"),
        ({"precision": "bf16"}, "bf16"),
        ({"precision": "fp16", "mixed_precision": "fp16"}, "fp16"),
    ],
)
def test_precision_and_its_former_name(keys, autocast):
    assert config(**keys).autocast == autocast


def test_two_precisions_are_refused():
    with pytest.raises(ConfigError, match=r"precision: expected bf16.*found fp32.*=no"):
        config(precision="fp32", mixed_precision="bf16")


def test_absent_keys_leave_no_trace_in_dumps():
    assert not {"precision", "deterministic"} & set(config().model_dump())
    changed = config(precision="fp32", deterministic=True).model_dump()
    assert differences(config().model_dump(), changed) == {
        "precision": (None, "fp32"),
        "deterministic": (None, True),
    }


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"precision": "fp32"}, ("ieee", "ieee", False)),
        ({"precision": "fp32", "deterministic": True}, ("ieee", "ieee", True)),
    ],
    ids=["fp32", "deterministic"],
)
def test_every_step_runs_in_the_arithmetic(keys, expected, tmp_path, monkeypatch):
    before, seen, read = settings(), [], scripted.Numbers.__getitems__

    def note(self, indices):
        seen.append(settings())
        return read(self, indices)

    monkeypatch.setattr(scripted.Numbers, "__getitems__", note)
    plain = trained(tmp_path / "plain")
    assert seen == 4 * [before]
    changed = trained(tmp_path / "changed", **keys)
    assert seen[4:] == 4 * [expected]
    assert settings() == before
    assert all(torch.equal(plain[name], changed[name]) for name in plain)  # on a CPU


def test_both_names_of_bf16_are_the_same_run(tmp_path):
    runs = [trained(tmp_path / key, **{key: "bf16"}) for key in ("precision", "mixed_precision")]
    plain = trained(tmp_path / "plain")
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in plain)
    assert any(not torch.equal(runs[0][name], plain[name]) for name in plain)


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_what_a_cpu_lacks_is_refused(precision, tmp_path):
    with pytest.raises(ConfigError, match=f"train.precision: {precision} needs a GPU"):
        trained(tmp_path / "run", precision=precision)


def test_a_run_goes_on_in_another_precision_with_a_warning(tmp_path, caplog):
    """The advice after a divergence."""
    train_tokenizer(run_config(steps=2, precision="bf16"), tmp_path, device="cpu")
    with caplog.at_level(logging.WARNING):
        train_tokenizer(run_config(steps=3, precision="fp32"), tmp_path, resume=True, device="cpu")
    assert "train.precision: continuing with 'fp32' instead of 'bf16'" in caplog.text


def test_a_perceptual_network_without_a_deterministic_gradient_is_refused():
    raw = tree(deterministic=True)
    weight = {"kind": "constant", "value": 1.0}
    raw["objective"]["perceptual"] = {"network": "torchvision:resnet18", "weight": weight}
    with pytest.raises(ConfigError, match=r"deterministic: expected false.*resnet18.*lpips:vgg"):
        validate(raw, TokenizerRun, "test")
    raw["objective"]["perceptual"]["network"] = "lpips:vgg"
    validate(raw, TokenizerRun, "test")
