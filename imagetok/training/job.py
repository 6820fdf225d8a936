"""The job that the training loop runs, and the setup of Accelerate for a run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from imagetok.errors import ConfigError
from imagetok.precision import check_tf32, deterministic_algorithms, full_float32, tf32
from imagetok.processes import check_device, process_state
from imagetok.training.adversary import Discriminator
from imagetok.training.batch_order import BatchedDataset, EpochDataset, check_batch_size
from imagetok.training.best_weights import WeightSelection
from imagetok.training.config import AdversarialConfig, TrainConfig
from imagetok.training.cuda_graphs import check_device_records, check_one_process
from imagetok.training.divergence import DivergenceLimits
from imagetok.training.facts import RunFacts
from imagetok.training.schedules import Schedule, Value
from imagetok.training.sharding import set_up_sharding
from imagetok.training.step_output import StepOutput


def as_is(batch: Any) -> Any:
    """Return the batch."""
    return batch


def nothing() -> None:
    """Do nothing."""


def nowhere(device: torch.device, check: Callable[[], None]) -> None:
    """Keep no examples on a device."""


@dataclass(frozen=True)
class Job:
    """What the loop trains: a model, its training data, and functions for loss and evaluation."""

    model: nn.Module
    dataset: BatchedDataset | EpochDataset
    loss: Callable[[nn.Module, Any, Mapping[str, Value], torch.Generator], StepOutput]
    """(model, batch, values of `schedules` at the step, generator on the device) -> StepOutput of a
    micro-batch. Nothing else may differ between steps; see `cuda_graphs`."""
    update: Callable[[nn.Module, dict[str, Tensor], torch.Generator], dict[str, Tensor]]
    """Called after each optimizer step: (unwrapped model, combined sums and rows, CPU generator
    that is equal on all ranks) -> masks of replaced rows of parameters, by name."""
    describe: Callable[[tuple[Tensor, ...]], dict[str, float]]
    """Summed `StepOutput.described` -> additional scalars to log."""
    evaluate: Callable[[nn.Module, int, Callable[[], None]], dict[str, float | int]]
    """(unwrapped model in eval mode, step, function to call often that stops after a signal) ->
    held-out measures."""
    export: Callable[[nn.Module, dict[str, float | int]], None]
    """(unwrapped model, its measures): writes `artifact`; called on the main process."""
    artifact: Path
    """Folder of the finished model."""
    adversary: "tuple[AdversarialConfig, Discriminator] | None" = None
    """A discriminator that opposes the model; the loss then says what it judges."""
    networks: Mapping[str, str] = field(default_factory=dict)
    """Hashes of networks that the loss uses and does not train, by name."""
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    """What the loss needs of the step, by name."""
    inputs: Callable[[], dict[str, str]] = dict
    """Identities of the training data and of the initial weights, by name; equal on all ranks."""
    read_differently: Callable[[], str] = str
    """Returns what earlier versions read differently in the training data, for the refusal of their
    runs; "" if it is unknown."""
    unpack: Callable[[Any], Any] = as_is
    """A batch as the dataset returns it -> the batch for `loss`; may raise InputError."""
    kept_on: Callable[[torch.device, Callable[[], None]], BatchedDataset | EpochDataset | None] = (
        nowhere
    )
    """(device, function to call often that stops after a signal) -> the same dataset with its
    examples on the device; None if they are not kept there."""
    keep: Callable[[], None] = nothing
    """Called on every process before a checkpoint is saved, to store what the job has noted."""
    selection: WeightSelection | None = None
    """Selection of the best weights; None keeps only the last weights."""
    limits: DivergenceLimits | None = None
    """Limits of a held-out measure; None: any finite value is accepted."""
    shown: tuple[str, ...] = ()
    """Names of logged values that the progress bar shows beside the loss."""
    facts: RunFacts | None = None
    """What the run trains, and on what; for its log and for estimates, unused by the loop."""
    matrix_layers: tuple[type[nn.Module], ...] = ()
    """Layers of other libraries whose `weight` is a matrix; see `build_optimizer`."""
    factor_of: Callable[[str], float] | None = None
    """Name of a parameter -> factor of its learning rate; None: 1 for all."""


@contextmanager
def arithmetic(config: TrainConfig) -> Iterator[None]:
    """Compute as `train.precision` and `train.deterministic` say, inside the context.

    Half precision is Accelerate's part.
    """
    with ExitStack() as settings:
        if config.precision in ("fp32", "tf32"):
            settings.enter_context(full_float32() if config.precision == "fp32" else tf32())
        if config.deterministic:
            settings.enter_context(deterministic_algorithms())
        yield


def check_machine(config: TrainConfig, device: torch.device, where: str = "") -> None:
    """Raise ConfigError for a tracker that is not installed, or what the device cannot do.

    where: the config, as a prefix of the message such as "a.yaml: ".
    """
    for tracker in config.trackers:
        if find_spec(tracker) is None:
            raise ConfigError(
                f"{where}train.trackers: {tracker} is not installed; pip install {tracker}, "
                "or set train.trackers=[]"
            )
    if config.autocast == "fp16" and device.type == "cpu":
        key = "mixed_precision" if config.precision is None else "precision"
        raise ConfigError(
            f"{where}train.{key}: fp16 needs a GPU; on a CPU use bf16, or train.precision=fp32 and "
            "train.mixed_precision=no"
        )
    if config.cuda_graphs:
        check_device_records(device, f"{where}train.cuda_graphs")
    if config.precision == "tf32":
        check_tf32(device, f"{where}train.precision", "fp32 or bf16")


def build_accelerator(config: TrainConfig, run: Path, device: str | None) -> Accelerator:
    """Set up Accelerate for a run.

    device: "cpu" to use no GPU; None uses what is there. Raises ConfigError for a tracker that is
    not installed, a device or precision that the machine does not have, a batch size that the
    processes cannot share equally, `train.cuda_graphs` with several processes, and what FSDP or
    DeepSpeed do not allow.
    """
    state = process_state(cpu=device == "cpu", patience=None)  # the timeout for hanging ranks stays
    here = torch.device(state.device or "cpu")
    if device not in (None, "cpu", here.type):
        check_device(device)
        raise ConfigError(
            f"--device {device}: expected cpu or no --device, because training runs on {here} "
            "here; choose a GPU with CUDA_VISIBLE_DEVICES"
        )
    check_machine(config, here)
    check_batch_size(config.batch_size, config.accumulation, state.num_processes)
    AcceleratorState._reset_state()  # a process may train twice, with different precisions
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=config.autocast,
        log_with=list(config.trackers) or None,
        project_dir=str(run),
        # The loop keeps buffers (codebooks, running statistics) equal on every rank by itself.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if config.cuda_graphs:
        check_one_process(accelerator.distributed_type)
    set_up_sharding(accelerator, config)
    return accelerator
