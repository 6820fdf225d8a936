"""A run whose steps are recorded once and replayed is the same run, bit for bit."""

import os
import signal
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from recorded_graph import RecordedGraph, record_on_cpu
from representative import slow_but
from scripted import Numbers
from test_resume import assert_same_run, tree, vqema
from torch import Tensor, nn

from imagetok.config import validate
from imagetok.errors import ConfigError, DivergedError, StoppedError
from imagetok.training.config import TokenizerRun, TrainConfig
from imagetok.training.cuda_graphs import WARM_UP, check_one_process
from imagetok.training.job import Job, build_accelerator
from imagetok.training.loop import rehearse
from imagetok.training.schedules import Constant, Exponential, Value
from imagetok.training.step_output import StepOutput
from imagetok.training.tokenizer import job_on_noise, train_tokenizer


@pytest.fixture(autouse=True)
def graphs(monkeypatch) -> type[RecordedGraph]:
    return record_on_cpu(monkeypatch)


def edvae(**train: object) -> TokenizerRun:
    """Everything that changes from step to step: temperature, weight, rate; dropout and noise."""
    raw = tree(accumulation=1, **train)
    raw["objective"]["weights"]["kl"] = {"kind": "quarter_cosine", "start": 0, "end": 1e-3}
    return validate(raw, TokenizerRun, "test")


def vq_ema(**train: object) -> TokenizerRun:
    return vqema("zeros", accumulation=1, **train)


def quantized(**quantizer: object) -> Callable[..., TokenizerRun]:
    """Runs with a codebook that starts from data, and codes replaced by draws of the host."""

    def make(**train: object) -> TokenizerRun:
        raw = tree(accumulation=1, **train)
        raw["tokenizer"]["quantizer"] = {"num_codes": 8, "code_dim": 4, **quantizer}
        weights = {"vqvae": ("codebook", "commitment"), "vq-ste++": ("vq",)}
        names = weights[str(quantizer["kind"])]
        raw["objective"]["weights"] = {name: {"kind": "constant", "value": 0.3} for name in names}
        return validate(raw, TokenizerRun, "test")

    return make


def batch_norm(**train: object) -> TokenizerRun:
    raw = tree(accumulation=1, **train)
    raw["tokenizer"]["image"] = {"mode": "grey", "height": 32, "width": 32}
    raw["tokenizer"]["network"] = {"kind": "sqvae", "form": "net_32", "width": 4}
    return validate(raw, TokenizerRun, "test")


RUNS: dict[str, Callable[..., TokenizerRun]] = {
    "edvae": edvae,
    "vqvae-ema": vq_ema,
    "batch norm": batch_norm,
    "vqvae, replaced": quantized(
        kind="vqvae", init="data", reset={"kind": "least-recently-used", "timeout": 2}
    ),
    "vq-ste++, alternating": quantized(
        kind="vq-ste++",
        init="kmeans",
        reset={"kind": "split", "every": 2},
        affine=None,
        alternation={"rate": 1.0},
    ),
}
SETTINGS: dict[str, dict[str, object]] = {
    "plain": {},
    "bf16": {"precision": "bf16"},
    "not clipped, not logged": {"clip_norm": None, "log_every": 5},
}
CASES = [(run, settings) for run in RUNS for settings in SETTINGS]
SOME = [("edvae", "plain"), ("vqvae, replaced", "bf16")]


@pytest.mark.parametrize(("name", "settings"), slow_but(SOME, CASES))
def test_a_recorded_run_equals_an_ordinary_one(name, settings, graphs, tmp_path):
    make, changes = RUNS[name], SETTINGS[settings]
    train_tokenizer(make(**changes), tmp_path / "plain", device="cpu")
    assert graphs.recorded == 0
    recorded = make(**changes, cuda_graphs=True)
    train_tokenizer(recorded, tmp_path / "recorded", device="cpu")
    assert (graphs.recorded, graphs.replayed) == (1, recorded.train.steps - WARM_UP)
    assert_same_run(tmp_path / "plain", tmp_path / "recorded", recorded.train.steps)
    options = [
        torch.load(tmp_path / run / "checkpoints" / "step-00000012" / "optimizer.bin")
        for run in ("plain", "recorded")
    ]
    assert options[0]["param_groups"] == options[1]["param_groups"]


@pytest.mark.parametrize("name", slow_but(["vqvae, replaced"], RUNS))
def test_what_a_graph_reads_is_changed_in_place(name):
    run = RUNS[name](cuda_graphs=True)
    job = job_on_noise(run)
    accelerator = build_accelerator(run.train, Path("nowhere"), "cpu")
    steps = rehearse(job, run.train, accelerator=accelerator, seed=0)

    def places() -> dict[str, int]:
        tensors = dict(job.model.state_dict(keep_vars=True))
        for i, values in enumerate(accelerator._optimizers[0].state.values()):
            tensors |= {f"{i}.{name}": value for name, value in values.items()}
        return {name: tensor.data_ptr() for name, tensor in tensors.items()}

    list(islice(steps, WARM_UP))
    recorded = places()
    assert len(list(steps)) == run.train.steps - WARM_UP
    assert places() == recorded


@pytest.mark.parametrize("name", slow_but(["vqvae-ema"], RUNS))
def test_a_stopped_recorded_run_goes_on_and_is_recorded_anew(name, graphs, tmp_path, monkeypatch):
    make = RUNS[name]
    train_tokenizer(make(), tmp_path / "whole", device="cpu")
    replay = RecordedGraph.replay

    def stopped(graph: RecordedGraph) -> Any:
        if RecordedGraph.replayed == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return replay(graph)

    monkeypatch.setattr(RecordedGraph, "replay", stopped)
    with pytest.raises(StoppedError, match=f"at step {WARM_UP + 2} of 12"):
        train_tokenizer(make(cuda_graphs=True), tmp_path / "stopped", device="cpu")
    train_tokenizer(make(cuda_graphs=True), tmp_path / "stopped", device="cpu", resume=True)
    assert graphs.recorded == 2
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 12)


@pytest.mark.slow
def test_a_run_may_be_recorded_from_a_checkpoint_on_or_up_to_one(graphs, tmp_path):
    train_tokenizer(edvae(), tmp_path / "whole", device="cpu")
    for first, name in ((True, "first"), (False, "then")):
        train_tokenizer(edvae(steps=6, cuda_graphs=first), tmp_path / name, device="cpu")
        rest = edvae(cuda_graphs=not first)
        train_tokenizer(rest, tmp_path / name, device="cpu", resume=True)
        assert_same_run(tmp_path / "whole", tmp_path / name, 12)
    assert graphs.recorded == 2


def test_a_loss_that_is_not_finite_is_found_at_its_step_with_its_terms(tmp_path):
    rate = {"kind": "constant", "value": 1e30}
    messages = []
    for is_recorded in (False, True):
        run = edvae(learning_rate=rate, clip_norm=1.0, log_every=6, cuda_graphs=is_recorded)
        with pytest.raises(DivergedError) as found:
            train_tokenizer(run, tmp_path / str(is_recorded), device="cpu")
        messages.append(str(found.value))
    assert messages[0] == messages[1]


def settings(**changes: object) -> TrainConfig:
    tree = {"steps": 9, "batch_size": 4, "learning_rate": {"kind": "constant", "value": 0.1}}
    return validate(tree | {"trackers": []} | changes, TrainConfig, "test")


Loss = Callable[[nn.Module, Tensor, Mapping[str, Value], torch.Generator], StepOutput]


def mean(
    model: nn.Module, batch: Tensor, values: Mapping[str, Value], draw: torch.Generator
) -> StepOutput:
    return StepOutput(model(batch).mean(), {}, {}, {})


def take(steps: int, dataset: Numbers, loss: Loss = mean, **schedules: Any) -> None:
    """Take recorded steps of a linear map."""
    config = settings(steps=steps, cuda_graphs=True)
    job = Job(
        model=nn.Linear(1, 1), dataset=dataset, loss=loss, schedules=schedules,
        update=lambda model, sums, draw: {}, describe=lambda sums: {},
        evaluate=lambda model, step, check: {}, export=lambda model, measures: None,
        artifact=Path("nowhere"),
    )  # fmt: skip
    accelerator = build_accelerator(config, Path("nowhere"), "cpu")
    assert len(list(rehearse(job, config, accelerator=accelerator, seed=0))) == steps


def test_inputs_stay_where_they_are_and_hold_the_values_of_the_step():
    places: list[tuple[int, ...]] = []
    found: list[tuple[float, ...]] = []

    def loss(
        model: nn.Module, batch: Tensor, values: Mapping[str, Value], draw: torch.Generator
    ) -> StepOutput:
        a, b = values["a"], values["b"]
        assert isinstance(a, Tensor) and isinstance(b, Tensor)
        places.append((batch.data_ptr(), a.data_ptr(), b.data_ptr(), id(draw)))
        found.append((a.item(), b.item()))
        return StepOutput((a * model(batch) + b).square().mean(), {}, {}, {})

    rate = Exponential(rate=0.5)
    take(9, Numbers(), loss, a=rate, b=Constant(value=3))
    assert len(places) == 9 and len(set(places)) == 1
    assert found == [tuple(torch.tensor([rate.at(step), 3.0]).tolist()) for step in range(9)]


def test_data_that_is_kept_is_not_written_to():
    """Of a dataset that returns a part of itself as a batch."""

    class Kept(Numbers):
        def __init__(self) -> None:
            self.kept = torch.arange(8.0)[:, None]

        def __getitems__(self, indices: list[int]) -> Tensor:
            return self.kept[indices[0] // 4 * 4 :][:4]

    data = Kept()
    take(9, data)
    assert data.kept.equal(torch.arange(8.0)[:, None])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulation": 2}, "accumulation: expected 1 beside cuda_graphs.* found 2"),
        ({"precision": "fp16"}, "precision: expected bf16 .* found fp16; set precision=bf16"),
        ({"mixed_precision": "fp16"}, "mixed_precision: expected bf16 .* found fp16"),
    ],
)
def test_what_cannot_be_recorded_is_refused_with_the_config(changes, message):
    assert settings(**changes).cuda_graphs is False
    with pytest.raises(ConfigError, match=message):
        settings(cuda_graphs=True, **changes)


def test_a_cpu_is_refused_before_training(monkeypatch, tmp_path):
    monkeypatch.undo()
    message = "train.cuda_graphs: needs a CUDA GPU, .* found cpu; set train.cuda_graphs=false"
    with pytest.raises(ConfigError, match=message):
        train_tokenizer(edvae(cuda_graphs=True), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_several_processes_are_refused():
    check_one_process(DistributedType.NO)
    for kind in (DistributedType.MULTI_GPU, DistributedType.FSDP, DistributedType.DEEPSPEED):
        with pytest.raises(ConfigError, match=f"expected one process .* found {kind.value}"):
            check_one_process(kind)


def test_a_recorded_run_says_that_it_is_untested(caplog):
    take(1, Numbers())
    assert sum("never run on one" in record.getMessage() for record in caplog.records) == 1
