"""What processes exchange at each step: one buffer, whatever is trained."""

import json
import signal
from pathlib import Path

import pytest
import torch
from launcher import launch
from torch import nn

from imagetok.errors import StoppedError
from imagetok.processes import _together, gather_together, sum_together
from imagetok.signals import StopRequest
from imagetok.training.step_output import StepOutput
from imagetok.training.step_reduction import StepReduction

SMALL = ["tokenizer.network.width=8"]
CASES = {
    "VQ-EMA": ["digits/vqvae-ema", *SMALL],
    "VQ-EMA with micro-batches": ["digits/vqvae-ema", *SMALL, "train.accumulation=2"],
    "VQ-VAE-2": ["shapes/vqvae2", *SMALL],
    "random reset": ["digits/vqvae", *SMALL, "tokenizer.quantizer.reset={kind: random}"],
    "EdVAE": ["digits/edvae", *SMALL],
    "batch norms": [
        "digits/vqvae-ema",
        "tokenizer.network={kind: sqvae, form: net_28, width: 16, residual_layers: 1}",
    ],
    "GPT": ["digits/gpt", "model.layers=1", "model.width=8", "model.heads=2"],
}
GATHERS = {"VQ-VAE-2", "random reset"}  # encoder outputs, for the reset


@pytest.mark.slow
def test_a_step_has_one_all_reduce_and_at_most_one_gather() -> None:
    program = str(Path(__file__).with_name("collectives.py"))
    done = launch(2, json.dumps(CASES), program=(program,))
    assert done.returncode == 0, done.stderr
    for name, steps in json.loads(done.stdout).items():
        expected = ["all_reduce", *(["all_gather"] if name in GATHERS else [])]
        assert steps == 3 * [expected], name


def test_tensors_of_a_type_travel_together_and_come_back_as_they_were() -> None:
    draw = torch.Generator().manual_seed(0)
    values = [
        torch.randn(3, 2, generator=draw), torch.arange(4), torch.zeros(()), torch.zeros(0, 2),
        torch.randint(9, (2, 1), generator=draw), torch.randn(2, 2, generator=draw).double(),
    ]  # fmt: skip
    sent: list[torch.Tensor] = []
    found = _together(values, lambda flat: sent.append(flat) or torch.stack([flat, 2 * flat]))
    assert [(flat.dtype, len(flat)) for flat in sent] == [
        (torch.float32, 7), (torch.int64, 6), (torch.float64, 4),
    ]  # fmt: skip
    for value, columns in zip(values, found, strict=True):
        assert columns.dtype == value.dtype
        assert columns.equal(torch.stack([value.flatten(), 2 * value.flatten()]))


def test_a_single_process_exchanges_nothing() -> None:
    values = [torch.zeros(2), torch.arange(3)]
    for together in (sum_together, gather_together):
        assert all(a is b for a, b in zip(together(values), values, strict=True))


def test_a_single_process_stops_at_the_next_step(hangups_count) -> None:
    with StopRequest() as stop:
        reduction = StepReduction(nn.Linear(1, 1), stop, torch.device("cpu"))
        output = StepOutput(torch.zeros(()), {}, {}, {})
        reduction.check_stop()
        signal.raise_signal(signal.SIGTERM)
        assert reduction.combine([output]).loss == 0
        with pytest.raises(StoppedError, match="SIGTERM"):
            reduction.check_stop()
