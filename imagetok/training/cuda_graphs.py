"""Optimizer steps as a CUDA graph: recorded once, then launched as a whole.

Launching a graph runs the same kernels on the same memory again. What differs from step to step,
which is the batch, the values of schedules and the learning rate, is therefore copied into tensors
that stay; the graph reads it there. Random numbers follow from the seeds that generators have when
the graph is launched. What a graph returns is overwritten by its next launch.

None of this has run on a GPU yet.
"""

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import ClassVar, Generic, TypeVar

import torch
from accelerate.utils import DistributedType

from imagetok import cuda_graph
from imagetok.errors import ConfigError
from imagetok.training.optimizer import capturable
from imagetok.training.step_inputs import StaticInputs, StepInputs

logger = logging.getLogger("imagetok")
T = TypeVar("T")
WARM_UP = 3
"""Steps before the recorded one: libraries choose and set up their kernels in them, codebooks start
from data, and the optimizer makes its state."""


class CudaGraph(cuda_graph.CudaGraph[T]):
    """The graph of an optimizer step.

    Everything is warmed up and recorded on one stream, because gradients are accumulated on the
    stream of their first use.
    """

    rate_dtype: ClassVar[torch.dtype] = torch.float32
    """The type in which torch's fused AdamW reads a learning rate on the device."""

    def __init__(self, device: torch.device, generator: torch.Generator):
        """generator: one besides the global one from which the step draws."""
        super().__init__(device, generator, what="train.cuda_graphs")


def check_device_records(device: torch.device, key: str) -> None:
    """Raise ConfigError for a device that records no graphs. key: the setting to name."""
    if device.type != CudaGraph.device_type:
        raise ConfigError(
            f"{key}: needs a CUDA GPU, which can record its work, found {device.type}; "
            "set train.cuda_graphs=false"
        )


def check_one_process(distributed_type: DistributedType) -> None:
    """Raise ConfigError if processes train together, or a library shares the work out."""
    if distributed_type != DistributedType.NO:
        raise ConfigError(
            "train.cuda_graphs: expected one process without DeepSpeed or FSDP, because what they "
            f"exchange is not recorded, found {distributed_type.value}; set train.cuda_graphs=false"
        )


class CapturedStep(Generic[T]):
    """The same as a function of the inputs of a step, which is called a few times, then recorded.

    function: from an iterable of one micro-batch; steps the optimizer, and reads on the host
    nothing that changes between steps. Its learning rate is that of the optimizer's options, as
    numbers, when this is called.
    """

    def __init__(
        self,
        function: Callable[[Iterable[StepInputs]], T],
        optimizer: torch.optim.Optimizer,
        device: torch.device,
    ):
        self._function = function
        self._optimizer = optimizer
        self._device = device
        self._rates = [
            torch.empty((), dtype=CudaGraph.rate_dtype, device=device)
            for _ in optimizer.param_groups
        ]
        self._static: StaticInputs | None = None
        self._graph: CudaGraph[T] | None = None
        self._taken = 0
        logger.warning(
            "train.cuda_graphs: no GPU was at hand when it was written, so it has never run on "
            "one; compare a short run with one without it"
        )

    def __call__(self, inputs: Iterable[StepInputs]) -> T:
        """Take a step; its output is valid until the next one."""
        (given,) = inputs
        if self._static is None or self._graph is None:
            self._static = StaticInputs(given, self._device)
            self._graph = CudaGraph(self._device, given.noise)
        self._static.fill(given)
        for rate, group in zip(self._rates, self._optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        step = partial(self._step, self._static.inputs)
        self._taken += 1
        if self._taken <= WARM_UP:
            return self._graph.warm_up(step)
        if self._taken == WARM_UP + 1:
            self._graph.record(step)
        return self._graph.replay()

    def _step(self, inputs: StepInputs) -> T:
        with capturable(self._optimizer, self._rates):
            return self._function([inputs])
