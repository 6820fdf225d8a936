"""What a run trains, and how it takes an optimizer step."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from imagetok import seeding
from imagetok.errors import ImagetokError
from imagetok.signals import StopRequest
from imagetok.training.adversary import Adversary, last_weight
from imagetok.training.checkpoint import build_average
from imagetok.training.config import TrainConfig
from imagetok.training.cuda_graphs import CapturedStep
from imagetok.training.divergence import Divergence
from imagetok.training.job import Job
from imagetok.training.optimizer import (
    build_optimizer,
    reset_optimizer_rows,
    set_learning_rate,
    to_step,
)
from imagetok.training.schedules import values_at
from imagetok.training.sharding import WholeModel, whole
from imagetok.training.step_inputs import StepInputs
from imagetok.training.step_output import StepOutput
from imagetok.training.step_reduction import StepReduction


class Descent(NamedTuple):
    """The result of a gradient step."""

    output: StepOutput
    """Combined over micro-batches and processes."""
    norm: Tensor | None
    """Norm of the gradient before it was clipped; None if it is not clipped."""


class Learner:
    """The model, its optimizer and its averaged weights, and the step that changes them.

    job: its model is on the accelerator's device. noise: a generator there, which each step seeds
    by (step, micro-batch, rank). stop: its signals are exchanged with the other processes. No
    operation of a step waits for the device.
    """

    def __init__(
        self,
        job: Job,
        config: TrainConfig,
        accelerator: Accelerator,
        seed: int,
        noise: seeding.ReseededGenerator,
        stop: StopRequest,
    ):
        self.job = job
        self.config = config
        self.accelerator = accelerator
        device = accelerator.device
        self.average = build_average(job.model, config.ema_decay)
        self._whole = WholeModel(accelerator, job.model)
        self.model, optimizer = accelerator.prepare(
            job.model,
            build_optimizer(job.model, config.optimizer, job.matrix_layers, job.factor_of),
        )
        self.model.train()
        self.bare: nn.Module = accelerator.unwrap_model(self.model)
        self.optimizer = to_step(optimizer)
        self.adversary = (
            None
            if job.adversary is None
            else Adversary(*job.adversary, accelerator, last_weight(self.bare))
        )
        self.reduction = StepReduction(self.bare, stop, device)
        self.divergence = Divergence(device)
        self._seed = seed
        self._noise = noise
        self._draws = seeding.ReseededGenerator(seed, "update")
        self._captured = (
            CapturedStep(self._gradient_step, self.optimizer, device)
            if config.cuda_graphs
            else None
        )

    def evaluated(self) -> nn.Module:
        """Return the model that is evaluated: the averaged one if there is one."""
        return self.average.module if isinstance(self.average, AveragedModel) else self.bare

    def exported(self) -> nn.Module:
        """Return the same model with whole weights, on the main process (a collective)."""
        return self._whole.to_export(self.model, self.evaluated())

    def weights(self) -> dict[str, Tensor]:
        """Return the whole weights of the same model, see `WholeModel.state` (a collective)."""
        return self._whole.state(self.model, self.evaluated())

    def expected_weights(self) -> dict[str, Tensor]:
        """Return tensors with the names and shapes of the whole weights."""
        return self._whole.expected(self.bare)

    def take(self, batches: Iterator[Any], step: int) -> StepOutput:
        """Take an optimizer step over all micro-batches and processes.

        batches: yields the micro-batches, or an error to raise in place of one. The output is valid
        until the next step.
        """
        if not self.bare.training:  # after an evaluation
            self.model.train()
        set_learning_rate(self.optimizer, self.config.learning_rate.at(step))
        if self.adversary is not None:
            is_logged = (step + 1) % self.config.log_every == 0 or step + 1 == self.config.steps
            self.adversary.begin(step, is_logged=is_logged)
        descend = self._gradient_step if self._captured is None else self._captured
        total, norm = descend(self._inputs(batches, step))
        self.divergence.watch(step, total)
        replaced = self.job.update(self.bare, total.sums | total.rows, self._draws.at(step))
        if self.average is not None:
            self.average.update_parameters(self.bare)
        reset_optimizer_rows(self.optimizer, self.bare, self.average, replaced)
        if norm is None:
            return total
        return total._replace(metrics=total.metrics | {"grad_norm": norm})

    def _inputs(self, batches: Iterator[Any], step: int) -> Iterator[StepInputs]:
        """Yield the inputs of each micro-batch, once the one before is done with its draws."""
        accelerator, rank = self.accelerator, self.accelerator.process_index
        values = values_at(self.job.schedules, step)
        for micro in range(self.config.accumulation):
            batch = next(batches)
            if isinstance(batch, ImagetokError):
                raise batch
            batch = self.job.unpack(batch)
            batch = send_to_device(batch, accelerator.device, non_blocking=True)
            noise = self._noise.at(step, micro, rank)
            seeding.reseed_global(self._seed, "dropout", step, micro, rank)
            yield StepInputs(batch, values, noise)

    def _gradient_step(self, inputs: Iterable[StepInputs]) -> Descent:
        """Change the weights by the gradient over all micro-batches and processes.

        A CUDA graph records this, so the host decides nothing here that differs between steps.
        """
        accelerator, config = self.accelerator, self.config
        adversary = self.adversary if self.adversary and self.adversary.is_active else None
        outputs: list[StepOutput] = []
        for batch, values, noise in inputs:
            is_last = len(outputs) == config.accumulation - 1
            with nullcontext() if is_last else accelerator.no_sync(self.model):
                output = self.job.loss(self.model, batch, values, noise)
                if adversary is not None:
                    output = adversary.opposed(output, values["adversarial.weight"])
                accelerator.backward(output.loss / config.accumulation)
            outputs.append(output.detach())
        norm = None
        if config.clip_norm is not None:
            norm = accelerator.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if adversary is not None:
            outputs = adversary.learn(outputs)
        total = self.reduction.combine(outputs)
        if adversary is not None:
            adversary.note(total.metrics)
        return Descent(total, None if norm is None else torch.as_tensor(whole(norm)).detach())
