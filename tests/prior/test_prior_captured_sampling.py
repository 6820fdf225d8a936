"""Sampling by recorded steps: the codes of ordinary sampling, memory that stays, no waits.

A stand-in for the CUDA graph calls the recorded step again at each replay.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar

import pytest
import torch
from device_waits import GPU, DeviceWaits, fake_tensors, move
from torch import Tensor
from torch.testing import assert_close

from imagetok import cuda_graph
from imagetok.errors import ConfigError
from prior import captured_sampling
from prior.base import NO_LABEL
from prior.build import build_prior
from prior.captured_sampling import GuidedStaticStepper, StaticDraw
from prior.sampling import draw_codes
from prior.sampling_params import SamplingParams

RECORDED = "gpt", "gpt-rectangular", "gpt-two-level", "gpt-rotary", "gpt-rotary-two-level"
SNAILS = "pixelsnail", "pixelsnail-wide", "pixelsnail-tall", "pixelsnail-column"
MORE = "pixelsnail-no-attention", "pixelsnail-row"
NAMES = (*RECORDED, *SNAILS, *MORE)


class CalledAgain:
    """Does at each replay what the recorded function does."""

    device_type: ClassVar[str] = "cpu"
    recorded: ClassVar[int] = 0

    def __init__(self, device: torch.device, *generators: torch.Generator, what: str):
        self.function: Callable[[], Any] | None = None

    def warm_up(self, function: Callable[[], Any]) -> Any:
        return function()

    def record(self, function: Callable[[], Any]) -> None:
        assert self.function is None
        self.function = function
        CalledAgain.recorded += 1

    def replay(self) -> Any:
        assert self.function is not None
        return self.function()


@pytest.fixture
def recording(monkeypatch) -> type[CalledAgain]:
    monkeypatch.setattr(cuda_graph, "CudaGraph", CalledAgain)
    CalledAgain.recorded = 0
    return CalledAgain


@pytest.mark.parametrize("name", NAMES)
def test_recorded_steps_draw_the_codes_of_ordinary_ones(name, named, recording):
    prior = named(name)
    options: list[dict[str, Any]] = [{}, {"top_k": 2}, {"top_p": 0.7, "temperature": 0.5}]
    options += [{"greedy": True}, {"given": prior.sample(3, seed=9), "keep_rows": 1}]
    if prior.config.num_classes:
        options += [{"label": [0, 1]}, {"label": 1, "guidance": 3.0}]
    for one in options:
        expected = prior.sample(18, seed=5, **one)  # two micro-batches, the last one padded
        found = prior.sample(18, seed=5, cuda_graphs=True, **one)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), one
    steps = prior.prepare_static()(torch.zeros(1, dtype=torch.int64))
    sizes = [steps.pattern(t) for t in range(prior.config.length)]
    often = [pattern for pattern in set(sizes) if sizes.count(pattern) > 1]
    assert recording.recorded == 2 * len(options) * len(often)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_their_logits_differ_by_rounding_alone_and_their_memory_stays(name, named):
    prior = named(name)
    classes = prior.config.num_classes
    labels = torch.arange(4) % classes if classes else torch.full((4,), NO_LABEL)
    static, usual = prior.prepare_static()(labels), prior.stepper(labels)
    position, previous = torch.zeros(1, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
    places: list[dict[str, int]] = []
    for t in range(prior.config.length):
        expected = usual.next_logits(previous if t else None)
        # The number of the step matters for its pattern alone.
        step = next(s for s in range(t + 1) if static.pattern(s) == static.pattern(t))
        found = static.next_logits(previous, position, step)
        assert_close(found, expected, rtol=0, atol=2e-5)
        previous.copy_(expected.argmax(dim=1))
        position.add_(1)
        places.append(memory_of(static))
    assert all(place == places[0] for place in places[1:]) and len(places[0]) > 1


def memory_of(stepper: Any) -> dict[str, int]:
    """Where a stepper keeps what later steps read."""
    if hasattr(stepper, "cache"):
        return {str(i): layer.memory.data_ptr() for i, layer in enumerate(stepper.cache.layers)}
    rows = stepper.rows
    found = {"codes": rows.codes.kept.data_ptr(), "result": rows.result.data_ptr()}
    for i, block in enumerate(rows.blocks):
        found |= {f"{i}.{j}": unit.inner.kept.data_ptr() for j, unit in enumerate(block.units)}
        if block.attention is not None:
            found[f"{i}.past"] = block.attention.past.data_ptr()
    return found


class NoCopies(DeviceWaits):
    """Refuses also copies that a GPU need not be waited for: a graph would copy the old values."""

    def _fault_of_copy(self, source: Tensor, to: torch.device, is_async: bool) -> str | None:
        if source.device.type != to.type:
            return "it copies between the CPU and the device"
        return None


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("name", ["gpt-two-level", "gpt-rotary", "pixelsnail"])
def test_a_step_waits_for_nothing_and_copies_nothing_from_the_host(name, guidance, named):
    config = named(name).config
    with torch.device("meta"):
        prior = build_prior(config).eval()
    params = SamplingParams(temperature=0.9, top_k=3, top_p=0.8, guidance=guidance)
    with fake_tensors(), torch.no_grad():
        move(prior)
        labels = torch.zeros(2, dtype=torch.int64, device=GPU)
        start = prior.prepare_static()
        stepper = start(labels) if guidance == 1 else GuidedStaticStepper(start, labels, guidance)
        uniforms = torch.zeros(2, config.length, dtype=torch.float64, device=GPU)
        given = torch.zeros(2, config.length, dtype=torch.int64, device=GPU)
        kept = [True] * config.length
        memory = StaticDraw(stepper, uniforms, given, kept, lambda x, u: draw_codes(x, u, params))
        known = set()
        for step in range(config.length):
            pattern = stepper.pattern(step)
            with NoCopies() if pattern in known else nullcontext():
                memory.step(step)  # the first step of a pattern is not recorded
            known.add(pattern)


@pytest.mark.parametrize("name", ["pixelcnn", "hierarchy", "hierarchy-gpt"])
def test_priors_without_static_steps_are_refused_by_name(name, named, recording):
    prior = named(name)
    kind = prior.config.model.kind
    with pytest.raises(ConfigError, match=f"gpt or pixelsnail can be sampled so, found {kind}"):
        prior.sample(2, cuda_graphs=True)


def test_a_device_that_records_nothing_is_refused(named):
    with pytest.raises(ConfigError, match=r"--cuda-graphs\): needs a CUDA GPU, .* found cpu"):
        named("gpt").sample(2, cuda_graphs=True)
    assert captured_sampling.OPTION.startswith("cuda_graphs")
