"""The training loop: batch -> loss -> backward -> clip -> step -> log -> evaluate -> save.

It is independent of what is trained; a `Job` provides model, data and loss.
"""

import logging
import math
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator

from imagetok import seeding
from imagetok.data.loader_workers import begin
from imagetok.durable import write_json
from imagetok.errors import InputError, NotFiniteError, StoppedError
from imagetok.processes import all_reduce, peak_memory_mb
from imagetok.progress import ProgressBar
from imagetok.signals import StopRequest
from imagetok.training import checkpoint
from imagetok.training.batch_order import (
    BatchedDataset,
    EpochDataset,
    MicroBatches,
    batch_loader,
)
from imagetok.training.best_weights import BestWeights
from imagetok.training.checkpoint_record import (
    DISCRIMINATOR,
    FINISHED,
    CheckpointRecord,
    read_finished,
)
from imagetok.training.config import TrainConfig
from imagetok.training.earlier_artifact import keep_earlier_artifact
from imagetok.training.job import Job, arithmetic
from imagetok.training.learner import Learner
from imagetok.training.metrics_log import JsonLines, records_of
from imagetok.training.restoring import (
    RunParts,
    check_no_progress_lost,
    finished_end,
    newest_checkpoint,
    restore,
)
from imagetok.training.step_output import StepOutput, summed_description

logger = logging.getLogger("imagetok")


def train(
    job: Job,
    config: TrainConfig,
    *,
    accelerator: Accelerator,
    run: Path,
    seed: int,
    unit: str,
    save_first: bool = False,
) -> dict[str, float | int]:
    """Train up to `config.steps`, starting from the run's newest intact checkpoint if there is one.

    run: the run folder; metrics.jsonl, timing.jsonl and checkpoints/ are written there. unit: name
    of the examples for the rate in logs ("images"). save_first: save a checkpoint before the first
    step of a new run, because its initial weights do not follow from the config (`--init-from`).
    Returns the evaluation of the exported weights: the last ones, or the best ones if the job's
    selection asks for them. Raises StoppedError after a signal (a checkpoint has then been saved),
    DivergedError when a loss or weight is not finite or a held-out measure is beyond its limits,
    CheckpointError when no checkpoint of a run that had some is intact or one belongs to another
    run, ResourceError when a checkpoint cannot be read or written.
    """
    length = getattr(config.learning_rate, "steps", 0)
    if length > config.steps:
        logger.warning(
            "train.learning_rate.steps is %d, but train.steps is only %d: the learning rate will "
            "not reach its end value",
            length,
            config.steps,
        )
    accelerator.wait_for_everyone()  # until the main process has created the folder
    with StopRequest() as stop, arithmetic(config):
        return _Training(job, config, accelerator, run, seed, unit, stop).run(save_first)


def rehearse(
    job: Job, config: TrainConfig, *, accelerator: Accelerator, seed: int
) -> Generator[None]:
    """Take steps of a new run, one each time the iterator advances, and keep nothing of them.

    There is no run folder, so no logs, evaluations, checkpoints and artifact. An adversary takes
    part from the first step, as in most steps of a run. Raises what a step raises, and StoppedError
    after a signal.
    """
    if job.adversary is not None:
        section, discriminator = job.adversary
        job = replace(job, adversary=(section.model_copy(update={"start": 0}), discriminator))
    with (
        TemporaryDirectory(prefix="imagetok-") as folder,
        StopRequest() as stop,
        arithmetic(config),
    ):
        training = _Training(job, config, accelerator, Path(folder), seed, "", stop)
        yield from training.rehearse()


class _Training:
    """The state of one `train` call."""

    def __init__(
        self,
        job: Job,
        config: TrainConfig,
        accelerator: Accelerator,
        folder: Path,
        seed: int,
        unit: str,
        stop: StopRequest,
    ):
        self.job = job
        self.config = config
        self.accelerator = accelerator
        self.checkpoints = folder / "checkpoints"
        self.finished = folder / FINISHED
        self.seed = seed
        self.unit = unit
        self.stop = stop
        job.model.to(accelerator.device)
        noise = seeding.ReseededGenerator(seed, "noise", accelerator.device)
        self.learner = Learner(job, config, accelerator, seed, noise, stop)
        self.metrics = JsonLines(folder / "metrics.jsonl")
        self.timing = JsonLines(folder / "timing.jsonl")
        self.batches: Iterator[Any] = iter(())
        self.step = 0
        self.best = BestWeights(job.selection) if job.selection is not None else None
        self.pending_evaluation = False
        self.evaluation: dict[str, float | int] = {}
        self.saved: tuple[int, bool] | None = None
        """(step, pending_evaluation) of the newest checkpoint; None before the first."""

    def run(self, save_first: bool) -> dict[str, float | int]:
        try:
            return self._run(save_first)
        finally:
            self._close()

    def rehearse(self) -> Iterator[None]:
        try:
            self._begin_batches(None)
            for _ in range(self.config.steps):
                self.learner.reduction.check_stop()
                self.learner.take(self.batches, self.step)
                self.step += 1
                yield
        finally:
            self._close()

    def _close(self) -> None:
        # Ends the loader's workers now: a traceback may keep the loader alive until the process
        # exits, and the exit would then wait for the workers without end.
        self.batches = iter(())
        self.metrics.close()
        self.timing.close()

    def _run(self, save_first: bool) -> dict[str, float | int]:
        self._restore()
        if self._is_finished():
            logger.info("the run is already finished: %s", self.job.artifact)
            return self._exported()[1]
        self._start_trackers()
        try:
            if save_first and self.saved is None:
                self._save()
            if self.pending_evaluation:
                self._evaluate()
                self._save()
            self._steps()
        except StoppedError as stopped:
            if self.saved != (self.step, self.pending_evaluation):
                self._save()
            raise StoppedError(
                f"{stopped} at step {self.step} of {self.config.steps}; saved in "
                f"{self.checkpoints}; run the same command with --resume to continue",
                stopped.exit_code - 128,
            ) from None
        except InputError:  # an example that cannot be read: save the progress made so far
            if self.accelerator.num_processes == 1 and self.saved != (
                self.step,
                self.pending_evaluation,
            ):
                self._save()
            raise
        return self._finish()

    def _finish(self) -> dict[str, float | int]:
        """Export the selected weights; return their evaluation."""
        if self.saved != (self.step, False):  # training ended early
            self._save()
        self.accelerator.wait_for_everyone()
        step, measures = self._exported()
        self._check_limits(measures, is_last=True)
        model = self.learner.exported()
        if self.accelerator.is_main_process:
            if self.best is not None and step != self.step:
                model.load_state_dict(self.best.tensors, strict=True)
            keep_earlier_artifact(self.job.artifact, step)
            self.job.export(model, measures)
            ended: dict[str, int | str] = {"step": self.step, "exported": step}
            if self.learner.adversary is not None:
                ended["discriminator"] = self.learner.adversary.save(self.finished.parent)
            write_json(self.finished, ended)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return measures

    def _exported(self) -> tuple[int, dict[str, float | int]]:
        """Return the step whose weights become the artifact, and their evaluation.

        The final evaluation is also considered. If it was not due at `evaluate_every`, it does not
        become the best evaluation for a later extension of the run.
        """
        best = self.best
        if best is None or best.selection.export == "last" or best.is_beaten_by(self.evaluation):
            return self.step, self.evaluation
        return best.step, best.measures

    def _is_over(self) -> bool:
        return self.step >= self.config.steps or (self.best is not None and self.best.is_over)

    def _is_finished(self) -> bool:
        """Return whether the artifact on disk is the one of the last requested step."""
        if not self._is_over() or not self.job.artifact.is_dir():
            return False
        try:
            found = read_finished(self.finished.parent)
        except InputError:  # the damaged file is written again
            return False
        expected = self.step, self._exported()[0]
        if found is None or (found.step, found.exported_step) != expected:
            return False
        return found.discriminator is None or self.finished.with_name(DISCRIMINATOR).is_file()

    def _begin_batches(self, kept: BatchedDataset | EpochDataset | None) -> None:
        """Start the loader at the next step. kept: the dataset, if it is on the device."""
        config, accelerator = self.config, self.accelerator
        micro_batches = MicroBatches(
            len(self.job.dataset),
            config.batch_size,
            seed=self.seed,
            start_step=self.step,
            accumulation=config.accumulation,
            rank=accelerator.process_index,
            num_processes=accelerator.num_processes,
        )
        if kept is not None:
            loader = batch_loader(kept, micro_batches, workers=0, pin_memory=False)
        else:
            is_cuda = accelerator.device.type == "cuda"
            loader = batch_loader(self.job.dataset, micro_batches, config.workers, is_cuda)
        self.batches = begin(loader)

    def _steps(self) -> None:
        config, accelerator = self.config, self.accelerator
        if not self._is_over():
            self._begin_batches(self.job.kept_on(accelerator.device, self.stop.check))
        logged_at, logged_step = time.perf_counter(), self.step
        with ProgressBar(
            "training", config.steps, self.step, accelerator.is_main_process
        ) as progress:
            while not self._is_over():
                self.learner.reduction.check_stop()
                output = self.learner.take(self.batches, self.step)
                self.step += 1
                if self._due(config.log_every):
                    values = self._log(output)
                    now = time.perf_counter()
                    rate = (self.step - logged_step) * config.batch_size / (now - logged_at)
                    self._log_timing(rate)
                    logged_at, logged_step = now, self.step
                    names = ("loss", *self.job.shown)
                    shown = "  ".join(f"{k} {v:.4g}" for k, v in values.items() if k in names)
                    progress.update(self.step, f"{shown}  {rate:.0f} {self.unit}/s")
                else:
                    progress.update(self.step)
                if self._due(config.evaluate_every):
                    begun = time.perf_counter()
                    self._evaluate()
                    logged_at += time.perf_counter() - begun
                if self._due(config.checkpoint_every) or self.step in config.keep_checkpoints:
                    self._save()

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _log(self, output: StepOutput) -> dict[str, float]:
        self.learner.divergence.refuse(self.checkpoints)
        values = {"loss": output.loss.item()}
        values |= {k: v.item() for k, v in output.metrics.items()}
        values |= self.job.describe(summed_description(output))
        if self.learner.adversary is not None:
            self.learner.adversary.balance.note(values)
        values["learning_rate"] = self.config.learning_rate.at(self.step - 1)
        self._record("train", values)
        return values

    def _log_timing(self, rate: float) -> None:
        if not self.accelerator.is_main_process:
            return
        record = {"step": self.step, f"{self.unit}_per_second": rate}
        record["peak_memory_mb"] = peak_memory_mb()
        if self.accelerator.device.type == "cuda":
            record["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
        self.timing.append(record)

    def _evaluate(self) -> None:
        self.learner.divergence.refuse(self.checkpoints)
        self.pending_evaluation = True
        checkpoint.check_finite(self.accelerator, self.checkpoints, self.step)
        model = self.learner.evaluated().eval()
        try:
            with self._uncompiled():
                self.evaluation = self.job.evaluate(model, self.step, self.stop.check)
        except NotFiniteError as error:
            checkpoint.refuse(self.checkpoints, self.step, f"on held-out {self.unit}, {error}")
        for name, value in self.evaluation.items():
            if not math.isfinite(value):
                checkpoint.refuse(self.checkpoints, self.step, f"the held-out {name} is {value}")
        self._record("test", self.evaluation)
        if self.best is not None and self.step % self.config.evaluate_every == 0:
            self.best.note(self.step, self.evaluation, self.learner.weights)
        self.pending_evaluation = False
        self._check_limits(self.evaluation, is_last=False)
        if self._is_over():
            self._check_limits(self._exported()[1], is_last=True)

    def _uncompiled(self) -> AbstractContextManager[object]:
        """Measure without compilation: as the artifact computes, and without another one."""
        if not self.config.compile:
            return nullcontext()  # also because torch's compiler takes seconds to import
        return torch.compiler.set_stance("force_eager")

    def _check_limits(self, measures: dict[str, float | int], *, is_last: bool) -> None:
        """Raise DivergedError on every process when finite measures exceed the job's limits."""
        limits = self.job.limits
        if limits is None:
            return
        best = self._lowest(limits.measure) if is_last else None
        fault = limits.fault(measures, best, is_last)
        if fault is not None:
            checkpoint.refuse(self.checkpoints, self.step, fault, limits.measure)

    def _lowest(self, measure: str) -> float | None:
        """Return the lowest value of a held-out measure so far, the same on every process."""
        found = math.inf
        if self.accelerator.is_main_process:
            tests = (r for r in records_of(self.metrics.path) if r.get("split") == "test")
            found = min((r[measure] for r in tests if r.get(measure) is not None), default=found)
        lowest = -float(all_reduce(torch.tensor(-found), "max"))
        return lowest if math.isfinite(lowest) else None

    def _record(self, split: str, values: dict[str, float] | dict[str, float | int]) -> None:
        if self.accelerator.is_main_process:
            self.metrics.append({"step": self.step, "split": split, **values})
        self.accelerator.log({f"{split}/{k}": v for k, v in values.items()}, step=self.step)

    def _save(self) -> None:
        self.learner.divergence.refuse(self.checkpoints)
        self.job.keep()
        record = CheckpointRecord(
            step=self.step,
            metrics_bytes=self.metrics.durable_size(),
            timing_bytes=self.timing.durable_size(),
            pending_evaluation=self.pending_evaluation,
            evaluation=self.evaluation,
            num_processes=self.accelerator.num_processes,
            data=self.job.dataset.identity(),
            networks=dict(self.job.networks),
            best=self.best.record() if self.best is not None else None,
        )
        tensors = self.best.tensors if self.best is not None else {}
        average, kept = self.learner.average, self.config.keep_checkpoints
        checkpoint.save(self.accelerator, self.checkpoints, record, average, tensors, kept)
        self.saved = (self.step, self.pending_evaluation)

    def _restore(self) -> None:
        """Continue from the newest intact checkpoint, or know that the run is finished."""
        path = newest_checkpoint(self.checkpoints)
        if path is None:
            self._restore_end()
            if not self._is_finished():
                check_no_progress_lost(self.checkpoints, self.metrics.path)
            return
        learner = self.learner
        parts = RunParts(
            self.accelerator,
            learner.expected_weights(),
            learner.average,
            self.best,
            self.metrics,
            self.timing,
        )
        record = restore(path, self.job, parts)
        self.step, self.evaluation = record.step, record.evaluation
        self.pending_evaluation = record.pending_evaluation
        self.saved = (record.step, record.pending_evaluation)

    def _restore_end(self) -> None:
        end = finished_end(self.finished.parent, self.config.steps)
        if end is not None:
            self.step, self.evaluation = end.step, end.measures
            if self.best is not None:
                self.best.restore(end.best(), {})

    def _start_trackers(self) -> None:
        purge = {"purge_step": self.step + 1} if self.step else {}
        self.accelerator.init_trackers("logs", init_kwargs={"tensorboard": purge})
