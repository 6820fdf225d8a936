"""Writing a code dataset with any number of processes.

The bytes do not depend on the number of processes, nor on interruptions and reruns.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from imagetok.codes.dataset_commit import (
    EncodeReport,
    check_space,
    commit_manifest,
    commit_plan,
    is_complete,
    read_record,
    stored_report,
)
from imagetok.codes.schema import PLAN, CodePlan
from imagetok.codes.shard_writer import EncodedPart, write_shard
from imagetok.distributed.peers import check_same_on_all, shared_work
from imagetok.durable import lock, sha256_file
from imagetok.errors import InputError
from imagetok.processes import process_state
from imagetok.progress import ProgressBar
from imagetok.signals import StopRequest

logger = logging.getLogger("imagetok")


def write_dataset(
    folder: Path,
    plan: CodePlan,
    parts_of: Callable[[range], Iterable[EncodedPart]],
    description: str,
    *,
    max_skips: int = 0,
    sample: Callable[[], str] = str,
    read_differently: Callable[[], str] = str,
    progress: ProgressBar | None = None,
) -> EncodeReport:
    """Write the code dataset of `plan` into `folder`; a rerun continues an interrupted one.

    parts_of: returns the codes of a range of inputs, in order and always the same for a range;
    called for each missing shard, in the process that the shard is assigned to. description: text
    beside the progress bar. max_skips: unreadable inputs to allow in the whole dataset. sample:
    returns a hash of some inputs, which is compared between the processes along with the plan.
    read_differently: returns what earlier versions read differently, for the refusal of their plan.
    progress: the bar of several datasets to move on, instead of a bar of this one.
    Raises ConfigError when `folder` holds another plan or another process was started with other
    options, InputError beyond max_skips or when processes see different inputs, ResourceError when
    the disk is too small, StoppedError after a signal (rerun to continue).
    """
    state = process_state()
    if progress is None:
        logger.info("processes: %d", state.num_processes)
    with ExitStack() as held, StopRequest() as stop:
        settings, facts = _comparable_facts(plan)
        work = shared_work(
            {"plan": settings, "max_skips": max_skips}, lambda: facts | {"some inputs": sample()}
        )
        held.enter_context(work)
        if state.is_main_process:
            share = held.enter_context(lock(folder))
            check_space(folder, plan)
            commit_plan(folder, plan, read_differently)
            share()
        state.wait_for_everyone()
        if not state.is_main_process:
            # If the main process dies first, the others still keep other writers away.
            held.enter_context(lock(folder, shared=True))
        written = folder / PLAN
        check_same_on_all(
            {},
            {
                f"{PLAN} in the output folder": sha256_file(written)
                if written.is_file()
                else "no such file"
            },
        )
        mine = range(state.process_index, plan.num_shards, state.num_processes)
        finished = [shard for shard in mine if is_complete(folder, plan, shard)]
        skipped = sum(len(read_record(folder, shard).skipped) for shard in finished)
        done = sum(len(plan.input_range(shard)) for shard in finished)
        total = sum(len(plan.input_range(shard)) for shard in mine)
        is_main = state.is_main_process
        with ExitStack() as shown:
            if progress is None:
                bar = ProgressBar(description, total, done, is_main, rate_unit="images/s")
                progress = shown.enter_context(bar)
            else:
                progress.advance(done)
            for shard in sorted(set(mine) - set(finished)):
                parts = parts_of(plan.input_range(shard))
                watched = _watched(parts, progress, max_skips - skipped, stop)
                skipped += len(write_shard(folder, plan, shard, watched).skipped)
        state.wait_for_everyone()
        report = commit_manifest(folder, plan, max_skips) if is_main else None
        state.wait_for_everyone()
    return report or stored_report(folder)


def _comparable_facts(plan: CodePlan) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a plan into settings and facts about the inputs, for comparing processes.

    The location of the inputs and the tokenizer's name may differ and are left out.
    """
    tree = plan.model_dump(mode="json", exclude={"source": True, "tokenizer": {"name"}})
    names = ("tokenizer", "num_inputs", "source_identity", "labelled", "class_names", "parts")
    inputs = {name: tree.pop(name) for name in names if name in tree}
    return tree, inputs


def _watched(
    parts: Iterable[EncodedPart],
    progress: ProgressBar,
    max_skips: int,
    stop: StopRequest,
) -> Iterator[EncodedPart]:
    """Yield the parts; advance the progress bar, and check for a stop request and max_skips."""
    skipped = 0
    for part in parts:
        stop.check_here()
        skipped += len(part.skipped)
        if skipped > max_skips:
            worst = part.skipped[-1]
            raise InputError(
                f"{worst.path}: {worst.reason}; more images are unreadable than --max-skip allows. "
                "Remove the file, or allow more skips with --max-skip N or --max-skip P%"
            )
        yield part
        progress.advance(len(part.keys) + len(part.skipped))
