"""A stand-in for a CUDA graph on the CPU, so that recorded runs can be compared with others."""

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from imagetok.training import cuda_graphs


class RecordedGraph:
    """Does at each replay what the recorded function does, and returns the tensors of the first.

    Their values are overwritten, as those of a CUDA graph are. Nothing is done while it records.
    """

    device_type: ClassVar[str] = "cpu"
    rate_dtype: ClassVar[torch.dtype] = torch.float64  # so that rates are not rounded
    recorded: ClassVar[int] = 0
    replayed: ClassVar[int] = 0

    def __init__(self, device: torch.device, generator: torch.Generator):
        self._function: Callable[[], Any] | None = None
        self._output: Any = None

    def warm_up(self, function: Callable[[], Any]) -> Any:
        return function()

    def record(self, function: Callable[[], Any]) -> None:
        assert self._function is None
        self._function = function
        RecordedGraph.recorded += 1

    def replay(self) -> Any:
        assert self._function is not None
        new = self._function()
        if self._output is None:
            self._output = new
        for place, tensor in zip(_tensors(self._output), _tensors(new), strict=True):
            place.copy_(tensor)
        RecordedGraph.replayed += 1
        return self._output


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def record_on_cpu(monkeypatch: pytest.MonkeyPatch) -> type[RecordedGraph]:
    """Let `train.cuda_graphs` record on the CPU; the class counts from 0."""
    RecordedGraph.recorded = RecordedGraph.replayed = 0
    monkeypatch.setattr(cuda_graphs, "CudaGraph", RecordedGraph)
    return RecordedGraph
