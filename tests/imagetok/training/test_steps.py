"""What a step of the loop gives to its parts, and how it combines what they return."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from hypothesis import given
from hypothesis import strategies as st
from scripted import Numbers, run_scripted
from torch import Tensor, nn

from imagetok import seeding
from imagetok.errors import DivergedError
from imagetok.training.config import TrainConfig
from imagetok.training.divergence import Divergence
from imagetok.training.job import Job, build_accelerator
from imagetok.training.loop import rehearse
from imagetok.training.optimizer import to_step
from imagetok.training.schedules import Constant
from imagetok.training.step_output import StepOutput, combine_outputs


def test_the_draws_of_a_step_are_those_of_new_generators():
    seed, steps, accumulation = 5, 3, 2
    found: list[Tensor] = []
    generators: list[torch.Generator] = []

    def loss(model: nn.Module, batch: Tensor, values: dict, draw: torch.Generator) -> StepOutput:
        found.append(torch.cat([torch.randn(3, generator=draw), torch.randn(3)]))
        generators.append(draw)
        return StepOutput(model(batch).square().mean(), {}, {}, {})

    def update(model: nn.Module, stats: dict[str, Tensor], draw: torch.Generator) -> dict:
        found.append(torch.randn(3, generator=draw))
        return {}

    config = TrainConfig(
        steps=steps, batch_size=4, accumulation=accumulation, learning_rate=Constant(value=0.1),
        trackers=(),
    )  # fmt: skip
    job = Job(
        model=nn.Linear(1, 1), dataset=Numbers(), loss=loss, update=update,
        describe=lambda sums: {}, evaluate=lambda model, step, check: {},
        export=lambda model, measures: None, artifact=Path("nowhere"),
    )  # fmt: skip
    accelerator = build_accelerator(config, Path("nowhere"), "cpu")
    list(rehearse(job, config, accelerator=accelerator, seed=seed))

    def expected() -> Iterator[Tensor]:
        for step in range(steps):
            for micro in range(accumulation):
                yield torch.cat(
                    [
                        torch.randn(3, generator=seeding.generator(seed, name, step, micro, 0))
                        for name in ("noise", "dropout")
                    ]
                )
            yield torch.randn(3, generator=seeding.generator(seed, "update", step))

    assert all(a.equal(b) for a, b in zip(found, expected(), strict=True))
    assert len({id(draw) for draw in generators}) == 1


class Noting(nn.Module):
    """A linear map that notes in which mode it and a part of it run."""

    def __init__(self):
        super().__init__()
        self.map, self.part = nn.Linear(1, 1), nn.Dropout(0.0)
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append((self.training, self.part.training))
        return self.part(self.map(x))


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_steps_are_in_training_mode_before_and_after_evaluations(tmp_path, ema_decay):
    model = Noting().eval()
    bits = {step: 1.0 for step in range(1, 6)}
    run_scripted(tmp_path / "run", bits, steps=5, model=model, ema_decay=ema_decay)
    assert model.modes == 5 * [(True, True)]
    run_scripted(tmp_path / "run", bits | {6: 1.0}, steps=6, model=model, ema_decay=ema_decay)
    assert model.modes == 6 * [(True, True)]


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.AdamW([nn.Parameter(torch.ones(2))])


def test_a_step_calls_torchs_optimizer_unless_accelerates_does_more():
    plain, other = optimizer(), optimizer()
    assert to_step(Accelerator(cpu=True).prepare(plain)) is plain
    scaled = AcceleratedOptimizer(other, scaler=torch.amp.GradScaler("cpu"))
    assert to_step(scaled) is scaled

    class OfALibrary(AcceleratedOptimizer):
        """As those of DeepSpeed and Megatron."""

    other_kind = OfALibrary(optimizer())
    assert to_step(other_kind) is other_kind


SCALARS = st.integers(-256, 256)  # which every type holds, and whose sums are exact


@given(
    st.integers(1, 4).flatmap(
        lambda names: st.lists(st.lists(SCALARS, min_size=names, max_size=names), min_size=1)
    )
)
def test_losses_and_metrics_are_means_over_micro_batches(values: list[list[float]]):
    """Of any precision, computed in float32."""
    types = [torch.float32, torch.bfloat16, torch.float64, torch.float32]
    rows = [[torch.tensor(v).to(types[i]) for i, v in enumerate(row)] for row in values]
    outputs = [
        StepOutput(loss, {str(i): v for i, v in enumerate(others)}, {}, {})
        for loss, *others in rows
    ]
    total = combine_outputs(outputs)
    assert list(total.metrics) == list(outputs[0].metrics)
    for name, column in enumerate(zip(*rows, strict=True), -1):
        found = total.loss if name < 0 else total.metrics[str(name)]
        assert found.dtype == torch.float32
        assert found == torch.stack(column).float().sum() / len(rows)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_sums_are_added_and_rows_joined(count):
    draw = torch.Generator().manual_seed(count)
    outputs = [
        StepOutput(
            torch.zeros(()),
            {},
            {"sum": torch.randn(3, 2, generator=draw)},
            {"rows": torch.randn(4, 2, generator=draw)},
            (torch.randint(9, (5,), generator=draw),),
        )
        for _ in range(count)
    ]
    total = combine_outputs(outputs)
    assert total.sums["sum"].equal(torch.stack([o.sums["sum"] for o in outputs]).sum(0))
    assert total.rows["rows"].equal(torch.cat([o.rows["rows"] for o in outputs]))
    assert total.described[0].equal(torch.stack([o.described[0] for o in outputs]).sum(0))


def test_the_first_loss_that_is_not_finite_is_reported_with_its_terms(tmp_path):
    divergence = Divergence(torch.device("cpu"))

    def watch(step: int, loss: float, a: float, b: float) -> None:
        metrics = {"a": torch.tensor(a), "b": torch.tensor(b)}
        divergence.watch(step, StepOutput(torch.tensor(loss), metrics, {}, {}))

    divergence.refuse(tmp_path)
    watch(0, 1.0, 1.0, torch.nan)  # a term alone is no fault
    divergence.refuse(tmp_path)
    watch(1, 1.0, 1.0, 1.0)
    watch(2, torch.inf, 1.0, torch.inf)
    watch(3, torch.nan, torch.nan, 1.0)
    watch(4, 1.0, 1.0, 1.0)
    with pytest.raises(DivergedError, match=r"step 2: the loss is not finite \(b\)"):
        divergence.refuse(tmp_path)
