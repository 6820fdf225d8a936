"""What is trained, and on what: the job that the loop is given, and Accelerate set up for a run."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from imagetok.errors import ConfigError
from imagetok.processes import process_state
from imagetok.training.batch_order import BatchedDataset, check_batch_size
from imagetok.training.best_weights import WeightSelection
from imagetok.training.config import TrainConfig
from imagetok.training.divergence import DivergenceLimits
from imagetok.training.step_output import StepOutput


@dataclass(frozen=True)
class Job:
    """What the loop trains: a model, its examples, and four functions."""

    model: nn.Module
    dataset: BatchedDataset
    loss: Callable[[nn.Module, Any, int, torch.Generator], StepOutput]
    """(model, batch, step, generator on the device) -> StepOutput."""
    update: Callable[[nn.Module, dict[str, Tensor], torch.Generator], dict[str, Tensor]]
    """(bare model, combined sums and rows, rank-free CPU generator), after each optimizer step ->
    masks of the rows of parameters that were replaced, by name."""
    describe: Callable[[tuple[Tensor, ...]], dict[str, float]]
    """Summed `StepOutput.described` -> more scalars to log."""
    evaluate: Callable[[nn.Module, int, Callable[[], None]], dict[str, float | int]]
    """(bare model in evaluation mode, step, check to call often) -> held-out measures."""
    export: Callable[[nn.Module, dict[str, float | int]], None]
    """(bare model, last measures): write `artifact`; on the main process."""
    artifact: Path
    """The folder of the finished model."""
    inputs: Callable[[], dict[str, str]] = dict
    """What identifies the examples and the weights to start from; alike on all processes."""
    selection: WeightSelection | None = None
    """Keeps the best weights beside the last; None keeps the last only."""
    limits: DivergenceLimits | None = None
    """What held-out measures of a run that did not diverge stay below; None: anything finite."""
    shown: tuple[str, ...] = ()
    """Names of logged values that the progress shows beside the loss."""
    matrix_layers: tuple[type[nn.Module], ...] = ()
    """Layers beside torch's own whose `weight` is a matrix; see `build_optimizer`."""


def build_accelerator(config: TrainConfig, run: Path, device: str | None) -> Accelerator:
    """Accelerate set up for a run; ConfigError where the machine cannot do what is asked."""
    for tracker in config.trackers:
        if find_spec(tracker) is None:
            raise ConfigError(
                f"train.trackers: {tracker} is not installed; pip install {tracker}, "
                "or set train.trackers=[]"
            )
    process_state(cpu=device == "cpu", patience=None)  # one that hangs in a step is noticed
    AcceleratorState._reset_state()  # a process may train twice, with different precisions
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=config.mixed_precision,
        log_with=list(config.trackers) or None,
        project_dir=str(run),
        # Buffers are kept alike on every rank by our own updates: codebooks, running statistics.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if device not in (None, "cpu", accelerator.device.type):
        raise ConfigError(
            f"--device {device}: training runs on {accelerator.device} here; give cpu or nothing, "
            "and choose a GPU with CUDA_VISIBLE_DEVICES"
        )
    if config.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("train.mixed_precision: fp16 needs a GPU; use bf16 or no on a CPU")
    check_batch_size(config.batch_size, config.accumulation, accelerator.num_processes)
    return accelerator
