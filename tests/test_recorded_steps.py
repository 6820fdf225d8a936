"""What a CUDA graph records of a training step is right at every step, with any config.

On fake tensors of a GPU: nothing in it waits, comes from the host or is drawn there, and at each
step the operations and all numbers in them are the same.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from device_waits import DeviceWaits, WouldWait, host_generator
from fake_steps import Trained, of_config, run_of, take_steps
from representative import slow_but
from test_device_waits import FEW_TOKENIZERS, MODELS, ONLY_DECODER, TOKENIZERS, VARIANTS, planted
from torch import Tensor

from imagetok.config import apply_overrides
from imagetok.errors import ConfigError
from imagetok.training import cuda_graphs

WARM_UP = 1
"""In place of three steps, to save time: codebooks have started after one."""


class CheckedGraph:
    """Runs the recorded function at each replay, and compares the operations with the first's."""

    device_type: ClassVar[str] = "cuda"
    rate_dtype: ClassVar[torch.dtype] = torch.float32
    operations: ClassVar[int] = 0

    def __init__(self, device: torch.device, generator: torch.Generator):
        self._function: Callable[[], Any] | None = None
        self._log: list[str] | None = None

    def warm_up(self, function: Callable[[], Any]) -> Any:
        return function()

    def record(self, function: Callable[[], Any]) -> None:
        self._function = function

    def replay(self) -> Any:
        assert self._function is not None
        with DeviceWaits(records=True) as operations:
            output = self._function()
        first = self._log = self._log or operations.log
        for before, now in zip(first, operations.log, strict=True):
            assert now == before
        CheckedGraph.operations += len(operations.log)
        return output


@pytest.fixture(autouse=True)
def graphs(monkeypatch) -> None:
    CheckedGraph.operations = 0
    monkeypatch.setattr(cuda_graphs, "CudaGraph", CheckedGraph)
    monkeypatch.setattr(cuda_graphs, "WARM_UP", WARM_UP)


def take_recorded(trained: Trained) -> None:
    take_steps(trained, WARM_UP + 2, accumulation=1, cuda_graphs=True)
    assert CheckedGraph.operations > 40


SOME = [
    *("digits/vqvae-ema", "digits/vqste", "digits/edvae", "shapes/vqvae2", "digits/residual-vq"),
    *("digits/gpt", "digits/pixelsnail"),
]


RECORDED = {"train.cuda_graphs": True, "train.accumulation": 1}
ADVERSARIES = [(name, keys) for name, keys in VARIANTS if "objective.adversarial" in keys]


@pytest.mark.parametrize("name", slow_but(SOME, MODELS))
def test_the_step_of_a_config_can_be_recorded(name):
    tree = apply_overrides(MODELS[name], RECORDED)
    if tree.get("objective", {}).get("adversarial") is not None:
        tree = apply_overrides(tree, {"objective.adversarial": None})  # refused, as tested below
    take_recorded(of_config(run_of(tree)))


@pytest.mark.parametrize("name", slow_but(FEW_TOKENIZERS, TOKENIZERS))
def test_so_can_that_of_its_decoder_alone(name):
    take_recorded(of_config(run_of(apply_overrides(MODELS[name] | ONLY_DECODER, RECORDED))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"), [variant for variant in VARIANTS if variant not in ADVERSARIES]
)
def test_so_can_what_no_config_asks_for(name, changes):
    take_recorded(of_config(run_of(apply_overrides(MODELS[name], RECORDED | changes))))


def test_an_adversary_is_refused_beside_recorded_steps():
    ((name, changes),) = ADVERSARIES
    with pytest.raises(ConfigError, match=r"adversarial: expected null with train\.cuda_graphs"):
        run_of(apply_overrides(MODELS[name], RECORDED | changes))


FAULTS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "item": lambda h, i: h.mean().item(),
    "pinned": lambda h, i: torch.ones(3).pin_memory().to(h.device, non_blocking=True),
    "blocking": lambda h, i: torch.ones(3).to(h.device),
    "into": lambda h, i: torch.empty_like(h).copy_(torch.ones(h.shape).pin_memory(), True),
    "host noise": lambda h, i: torch.rand(3, generator=host_generator()),
    "global host noise": lambda h, i: torch.rand(3),
    "host order": lambda h, i: torch.randperm(3),
}


def in_recorded_step(fault: Callable[[Tensor, Tensor], object]) -> Callable[[Tensor, Tensor], None]:
    """The fault, but not in the steps before the recorded one."""
    calls = []

    def run(h: Tensor, i: Tensor) -> None:
        calls.append(0)
        if len(calls) > WARM_UP:
            fault(h, i)

    return run


@pytest.mark.parametrize("name", FAULTS)
def test_what_a_graph_cannot_do_again_is_found(name):
    with pytest.raises(WouldWait, match="in <lambda>: "):
        take_recorded(planted("forward", in_recorded_step(FAULTS[name])))


def test_a_number_of_the_host_that_changes_is_found():
    numbers = iter(range(100))
    for changing in (
        lambda h, i: h * next(numbers),
        lambda h, i: h * torch.tensor(float(next(numbers))),
    ):
        with pytest.raises(AssertionError, match="aten"):
            take_recorded(planted("forward", changing))


def test_what_follows_a_replay_may_draw_on_the_host_and_copy_it():
    def draw(vectors: Tensor, counts: Tensor) -> None:
        noise = torch.rand(3, generator=host_generator()).pin_memory()
        noise.to(vectors.device, non_blocking=True)

    take_recorded(planted("update", draw))
