"""A request to stop: by one signal, by different ones on two processes, and outside the main
thread."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from imagetok.errors import StoppedError
from imagetok.signals import StopRequest

RANKS = """
import os, pathlib, signal, sys
from imagetok.errors import StoppedError
from imagetok.processes import process_state
from imagetok.signals import StopRequest

state = process_state(cpu=True)
with StopRequest() as stop:
    stop.check()
    if state.process_index == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.signal_number() == signal.SIGTERM  # also on the process that was sent none
    if state.process_index == 0:
        os.kill(os.getpid(), signal.SIGINT)
    try:
        stop.check()
    except StoppedError as error:
        file = pathlib.Path(sys.argv[1]) / f"rank-{state.process_index}"
        file.write_text(f"{error}, exit code {error.exit_code}")
"""


@pytest.mark.usefixtures("hangups_count")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_a_request_and_its_handler_is_given_back(number):
    before = signal.getsignal(number)
    with pytest.raises(StoppedError, match=number.name) as stopped, StopRequest() as stop:
        assert stop.signal_number() == 0
        os.kill(os.getpid(), number)
        assert stop.signal_number() == number
        stop.check()
    assert stopped.value.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_a_hangup_that_is_ignored_stays_ignored():
    """As `nohup imagetok train ...` starts it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal_number() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_nothing_is_requested_and_nothing_fails():
    before = signal.getsignal(signal.SIGINT)
    found = []

    def work():
        with StopRequest() as stop:
            stop.check()
            found.append((stop.signal_number(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(0, before)]


@pytest.mark.slow
def test_different_signals_on_two_processes_stop_both_by_the_same(tmp_path):
    """They were averaged: SIGINT and SIGTERM gave SIGFPE."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    done = subprocess.run(
        [*launcher, "--nproc_per_node", "2", sys.executable, "-c", RANKS, str(tmp_path)],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        f"rank-{rank}": "stopped by SIGTERM, exit code 143" for rank in (0, 1)
    }
