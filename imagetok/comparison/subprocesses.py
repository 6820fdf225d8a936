"""Commands run side by side, each in a process of its own that ends with this one."""

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


class Command(NamedTuple):
    """A command, and the file that gets what it says."""

    name: str
    command: Sequence[str]
    log: Path


class Failure(NamedTuple):
    """Why a command did not succeed."""

    code: int
    """The exit code of its process; negative where a signal killed it."""
    message: str


def imagetok_command(*words: str) -> list[str]:
    """A command of imagetok as a process that ends when the one that started it does.

    -P: a project that has folders named `cli` or `prior` may be the working folder. It loads the
    plugins that this process loaded.
    """
    program = [sys.executable, "-P", "-m", "imagetok", "--stop-with-parent"]
    return [*program, *plugin_options(), *words]


def failure_of(job: Command, code: int) -> Failure:
    """With the error message that the process ended with."""
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
    """Run every command; returns their exit codes by name (negative: killed by that signal).

    slots: places to run in side by side, each with what it adds to the environment. A command's
    standard input stays open, without a byte, until this process ends, however it ends. watch:
    called with the names of those that run, often. When `stop` is asked for, each is sent SIGTERM
    once and waited for, and no other is started.
    """
    waiting, running = deque(jobs), dict[int, tuple[Command, subprocess.Popen[bytes]]]()
    codes: dict[str, int] = {}
    is_told = False
    try:
        while running or (waiting and not is_told):
            for slot, environment in enumerate(slots):
                if waiting and not is_told and slot not in running:
                    job = waiting.popleft()
                    running[slot] = job, _start(job, environment)
            if not is_told and stop.signal_number():
                is_told = True
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
            start_new_session=True,  # a Ctrl-C reaches this process alone, which passes it on
        )


def _importable() -> dict[str, str]:
    """Where this package is imported from, for a process that does not look where this one did."""
    home = Path(__file__).resolve().parents[2]
    if home.name in ("site-packages", "dist-packages"):
        return {}
    paths = [str(home), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
