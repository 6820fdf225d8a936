"""Parallel commands, each in its own process, which ends if this process ends."""

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from imagetok.plugins.loading import plugin_options
from imagetok.signals import StopRequest

SUCCESS = (0, 4)
"""Exit codes of a command that finished; 4 if it skipped images within its allowance."""


class Command(NamedTuple):
    """A named command and the log file of its output."""

    name: str
    command: Sequence[str]
    log: Path


class Failure(NamedTuple):
    """Why a command did not succeed."""

    code: int
    """Exit code of the process; negative if a signal killed it."""
    message: str


def imagetok_command(*words: str) -> list[str]:
    """Return the command line of an imagetok command whose process ends with its parent.

    -P keeps the working folder off the import path: it may contain folders `cli` or `prior`. The
    process loads the plugins that this process loaded.
    """
    program = [sys.executable, "-P", "-m", "imagetok", "--stop-with-parent"]
    return [*program, *plugin_options(), *words]


def failure_of(job: Command, code: int) -> Failure:
    """Return a Failure with the error message at the end of the log."""
    if code < 0:
        return Failure(code, f"its process was killed by signal {-code}; {job.log}")
    _, found, message = job.log.read_text(errors="replace").rpartition("error: ")
    return Failure(code, message.strip() if found else f"ended with exit code {code}; {job.log}")


def run_commands(
    jobs: Sequence[Command],
    slots: Sequence[Mapping[str, str]],
    stop: StopRequest,
    watch: Callable[[list[str]], None],
) -> dict[str, int]:
    """Run every command; return exit codes by name (negative: killed by that signal).

    slots: one mapping of environment variables per command that may run at the same time. watch:
    called often with the names of the running commands. The standard input of every command is a
    pipe without data that closes when this process ends. After a stop request, every running
    command is sent SIGTERM once and waited for, and no other one is started.
    """
    waiting, running = deque(jobs), dict[int, tuple[Command, subprocess.Popen[bytes]]]()
    codes: dict[str, int] = {}
    is_stopping = False
    try:
        while running or (waiting and not is_stopping):
            for slot, environment in enumerate(slots):
                if waiting and not is_stopping and slot not in running:
                    job = waiting.popleft()
                    running[slot] = job, _start(job, environment)
            if not is_stopping and stop.signal_number():
                is_stopping = True
                for _, process in running.values():
                    process.terminate()
            time.sleep(0.05)
            for slot, (job, process) in list(running.items()):
                code = process.poll()
                if code is not None:
                    process.communicate()  # closes the pipe
                    codes[job.name] = code
                    del running[slot]
            watch([job.name for job, _ in running.values()])
    finally:
        for _, process in running.values():
            process.kill()
            process.communicate()
    return codes


def _start(job: Command, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with job.log.open("ab") as log:
        return subprocess.Popen(
            job.command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, **_importable(), **environment},
            start_new_session=True,  # Ctrl-C reaches only this process, which passes it on
        )


def _importable() -> dict[str, str]:
    """Return a PYTHONPATH for subprocesses if this package is not installed in site-packages."""
    home = Path(__file__).resolve().parents[2]
    if home.name in ("site-packages", "dist-packages"):
        return {}
    paths = [str(home), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
