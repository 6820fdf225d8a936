"""Commands side by side: exit codes, places, stopping."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from imagetok.comparison.subprocesses import Command, run_commands
from imagetok.errors import StoppedError
from imagetok.signals import StopRequest


def job(tmp_path: Path, name: str, shell: str) -> Command:
    return Command(name, ["sh", "-c", shell], tmp_path / f"{name}.log")


def test_every_command_runs_once_and_tells_how_it_ended(tmp_path):
    endings = {"good": "echo fine", "bad": "echo no >&2; exit 6", "killed": "kill -9 $$"}
    jobs = [job(tmp_path, name, shell) for name, shell in endings.items()]
    seen: list[int] = []
    with StopRequest() as stop:
        codes = run_commands(jobs, [{}, {}], stop, lambda running: seen.append(len(running)))
    assert codes == {"good": 0, "bad": 6, "killed": -9}
    assert max(seen) <= 2
    assert (tmp_path / "good.log").read_text() == "fine\n"
    assert (tmp_path / "bad.log").read_text() == "no\n"


def test_places_have_their_environment_and_are_filled_again(tmp_path):
    jobs = [job(tmp_path, str(i), "echo $PLACE; sleep 0.1") for i in range(4)]
    with StopRequest() as stop:
        run_commands(jobs, [{"PLACE": "a"}, {"PLACE": "b"}], stop, lambda running: None)
    places = [(tmp_path / f"{i}.log").read_text().strip() for i in range(4)]
    assert sorted(places[:2]) == ["a", "b"] and set(places) == {"a", "b"}


def test_a_stop_is_passed_on_once_and_waited_for(tmp_path):
    shell = 'trap "sleep 0.3; echo saved; exit 143" TERM; touch $0; while :; do sleep 0.05; done'
    flag = tmp_path / "started"
    first = Command("first", ["sh", "-c", shell, str(flag)], tmp_path / "first.log")
    second = job(tmp_path, "second", "echo never")

    def interrupt() -> None:
        while not flag.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    with StopRequest() as stop:
        codes = run_commands([first, second], [{}], stop, lambda running: None)
        with pytest.raises(StoppedError) as stopped:
            stop.check_here()
    assert stopped.value.exit_code == 143
    assert codes == {"first": 143}  # the second was not started
    assert (tmp_path / "first.log").read_text() == "saved\n"


def test_an_exception_leaves_nothing_running(tmp_path):
    pid = tmp_path / "pid"
    with StopRequest() as stop, pytest.raises(ZeroDivisionError):
        run_commands(
            [job(tmp_path, "long", f"echo $$ > {pid}; sleep 60")],
            [{}],
            stop,
            lambda running: 1 // 0 if pid.is_file() and pid.read_text() else None,
        )
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.slow  # a process of its own; test_cli_help has the same of a command
def test_standard_input_ends_with_this_process(tmp_path):
    code = (
        "import sys; from pathlib import Path; "
        "from imagetok.comparison.subprocesses import Command, run_commands\n"
        "from imagetok.signals import StopRequest\n"
        f"shell = 'echo ready; cat; echo gone > {tmp_path}/gone'\n"
        f"job = Command('x', ['sh', '-c', shell], Path('{tmp_path}/log'))\n"
        "import os\n"
        f"watch = lambda names: os.path.getsize('{tmp_path}/log') and os._exit(9)\n"
        "with StopRequest() as stop: run_commands([job], [{}], stop, watch)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    for _ in range(500):
        if (tmp_path / "gone").is_file():
            return
        time.sleep(0.01)
    pytest.fail("the command goes on without its parent")
