import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imagetok.config import validate
from imagetok.errors import ConfigError
from imagetok.training.config import ObjectiveConfig, TokenizerRun
from imagetok.training.schedules import (
    Constant,
    Exponential,
    QuarterCosine,
    Staircase,
    WarmupCosine,
)

STEPS = st.integers(0, 10**7)


@pytest.mark.parametrize(("step", "way"), [(0, 0), (1000, 0.049), (2500, 0.293), (4000, 0.691)])
def test_quarter_cosine_weights_of_the_paper(step: int, way: float) -> None:
    assert QuarterCosine(start=0.0, end=1.0, steps=5000).at(step) == pytest.approx(way, abs=5e-4)


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 1e-3),
        (10_000, 9.51e-4),
        (25_000, 7.07e-4),
        (40_000, 3.10e-4),
        (50_000, 1.25e-6),
        (150_000, 1.25e-6),
    ],
)
def test_quarter_cosine_learning_rates_of_the_paper(step: int, rate: float) -> None:
    schedule = QuarterCosine(start=1e-3, end=1.25e-6, steps=50_000)
    assert schedule.at(step) == pytest.approx(rate, rel=2e-3)


@pytest.mark.parametrize(
    ("step", "value"), [(0, 1), (5000, 0.951), (50_000, 0.607), (100_000, 0.368), (150_000, 0.223)]
)
def test_temperatures_of_the_paper(step: int, value: float) -> None:
    assert Exponential(start=1.0, rate=1e-5).at(step) == pytest.approx(value, abs=5e-4)


@given(step=STEPS, value=st.floats(0, 1e6))
def test_constant_is_constant(step: int, value: float) -> None:
    assert Constant(value=value).at(step) == value


@given(step=STEPS, start=st.floats(0, 1), end=st.floats(0, 1), steps=st.integers(1, 10**6))
def test_quarter_cosine_stays_between_its_ends(
    step: int, start: float, end: float, steps: int
) -> None:
    schedule = QuarterCosine(start=start, end=end, steps=steps)
    assert schedule.at(0) == start
    assert schedule.at(steps + step) == pytest.approx(end, abs=1e-15)
    assert min(start, end) - 1e-15 <= schedule.at(step) <= max(start, end) + 1e-15


def test_exponential_multiplies_by_the_same_factor_each_step() -> None:
    schedule = Exponential(start=2.0, rate=0.01)
    ratios = [schedule.at(step + 1) / schedule.at(step) for step in range(100)]
    assert ratios == pytest.approx([math.exp(-0.01)] * 100)


def test_a_staircase_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    reference = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
    schedule = Staircase(start=0.3, factor=0.5, every=3)
    for step in range(12):
        assert schedule.at(step) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
    assert len({schedule.at(step) for step in range(12)}) == 4


def test_warmup_cosine_climbs_in_equal_steps_then_falls() -> None:
    schedule = WarmupCosine(peak=2.0, end=0.5, warmup=4, steps=12)
    assert [schedule.at(step) for step in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert schedule.at(4) == 2.0
    assert schedule.at(8) == pytest.approx((2.0 + 0.5) / 2)
    assert schedule.at(12) == schedule.at(10**6) == pytest.approx(0.5)
    falling = [schedule.at(step) for step in range(4, 13)]
    assert falling == sorted(falling, reverse=True)


def test_warmup_may_be_none_or_all() -> None:
    assert WarmupCosine(peak=2.0, warmup=0, steps=10).at(0) == 2.0
    assert WarmupCosine(peak=2.0, warmup=10, steps=10).at(9) == 2.0


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"kind": "constant", "value": -1.0}, "kl.value: Input should be greater than or equal"),
        ({"kind": "constant", "value": math.nan}, "kl.value: Input should be a finite number"),
        ({"kind": "constant", "valeu": 1.0}, "kl.valeu: unknown key; did you mean 'value'"),
        ({"kind": "exponential"}, "kl.rate: missing"),
        ({"kind": "quarter_cosine", "start": 0, "end": 1, "steps": 0}, "kl.steps: Input should"),
        ({"kind": "linear"}, "kl.kind: expected one of 'constant', .*; found 'linear'"),
    ],
)
def test_impossible_schedules_are_refused(tree: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=rf"here: weights\.{says}"):
        validate({"weights": {"kl": tree}}, ObjectiveConfig, "here")


def run_tree(steps: int, **train: object) -> dict[str, object]:
    """A run none of whose schedules has a length."""
    return {
        "data": {"source": "digits"},
        "tokenizer": {
            "image": {"mode": "grey", "height": 8, "width": 8},
            "network": {"kind": "conv", "width": 8, "groups": 2, "blocks": 1},
            "quantizer": {"kind": "dvae", "num_codes": 8, "code_dim": 4},
        },
        "objective": {
            "weights": {"kl": {"kind": "quarter_cosine", "start": 0.0, "end": 1e-4}},
            "temperature": {"kind": "quarter_cosine", "start": 1.0, "end": 0.5, "steps": None},
        },
        "train": {
            "steps": steps,
            "batch_size": 8,
            "learning_rate": {"kind": "warmup_cosine", "peak": 1e-3, "warmup": 1},
            **train,
        },
    }


def test_a_schedule_without_a_length_has_that_of_the_run() -> None:
    """And the run dumps it, so that what is stored has every length."""
    run = validate(run_tree(steps=7), TokenizerRun, "here")
    stored = run.model_dump(mode="json")
    assert stored["objective"]["weights"]["kl"]["steps"] == 7
    assert stored["objective"]["temperature"]["steps"] == 7
    assert stored["train"]["learning_rate"]["steps"] == 7
    assert run.train.learning_rate.at(7) == 0.0
    given = run_tree(
        steps=7, learning_rate={"kind": "quarter_cosine", "start": 1, "end": 0, "steps": 3}
    )
    assert validate(given, TokenizerRun, "here").train.learning_rate.model_dump()["steps"] == 3
    assert validate(stored, TokenizerRun, "here") == run


def test_sections_that_several_runs_share_keep_no_length_of_one() -> None:
    first = validate(run_tree(steps=7), TokenizerRun, "here")
    open_ = validate(run_tree(steps=7)["objective"], ObjectiveConfig, "here")
    sections = {name: getattr(first, name) for name in ("data", "tokenizer", "objective")}
    again = TokenizerRun(**sections, train=first.train.model_copy(update={"steps": 9}))
    assert open_.weights["kl"].model_dump()["steps"] is None
    assert first.objective.weights["kl"].model_dump()["steps"] == 7
    assert again.objective.weights["kl"].model_dump()["steps"] == 9
    assert again.train.learning_rate.model_dump()["steps"] == 9


def test_a_schedule_without_a_length_outside_a_run_has_no_value() -> None:
    with pytest.raises(ValueError, match="expected `steps`"):
        QuarterCosine(start=0.0, end=1.0).at(1)


def test_a_number_in_place_of_a_schedule_is_constant() -> None:
    run = run_tree(steps=7, learning_rate=1e-3)
    run["objective"] |= {"temperature": 2, "weights": {"kl": 0.25}}
    short = validate(run, TokenizerRun, "here")
    assert short.train.learning_rate == Constant(value=1e-3)
    assert short.objective.temperature == Constant(value=2.0)
    assert short.objective.weights == {"kl": Constant(value=0.25)}
    stored = short.model_dump(mode="json")
    assert stored["train"]["learning_rate"] == {"kind": "constant", "value": 1e-3}
    assert validate(stored, TokenizerRun, "here") == short


@pytest.mark.parametrize("value", [True, "0.001", "constant", -1.0, float("nan"), None])
def test_what_is_no_number_is_no_schedule(value: object) -> None:
    with pytest.raises(ConfigError, match=r"train\.learning_rate"):
        validate(run_tree(steps=7, learning_rate=value), TokenizerRun, "here")


def test_weights_of_an_entropy_penalty_without_its_temperature_are_advised() -> None:
    run = run_tree(steps=7)
    run["tokenizer"]["quantizer"] = {"kind": "vqvae", "num_codes": 8, "code_dim": 4}
    run["objective"]["weights"] = {"codebook": 1.0, "commitment": 0.25, "diversity": 0.1}
    with pytest.raises(ConfigError, match=r"tokenizer\.quantizer\.entropy_temperature=0\.01"):
        validate(run, TokenizerRun, "here")
    del run["objective"]["weights"]["commitment"], run["objective"]["weights"]["diversity"]
    with pytest.raises(ConfigError, match="expected the losses of") as refused:
        validate(run, TokenizerRun, "here")
    assert "entropy" not in str(refused.value)
