"""Start-up, help texts and their examples."""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cli.main import COMMANDS, imagetok


def command(name: str) -> click.Command:
    found = imagetok.get_command(click.Context(imagetok), name)
    assert found is not None
    return found


def parse(words: list[str]) -> None:
    """Parse a command line as click would, without running it."""
    assert words[0] == "imagetok"
    name, *arguments = words[1:]
    command(name).make_context(name, arguments)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom cli.main import main\ntry:\n    main(['--help'])\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "print({'torch', 'numpy', 'pydantic', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    "launcher",
    [[], pytest.param(["-m", "torch.distributed.run", "--standalone"], marks=pytest.mark.slow)],
)
def test_a_project_with_folders_of_the_same_names_is_no_obstacle(tmp_path: Path, launcher):
    for name in ("cli", "prior"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('of another project')\n")
    command = [sys.executable, *launcher, "-m", "imagetok", "inspect", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert f"error: {tmp_path}: expected a tokenizer, prior, run" in done.stderr
    assert done.returncode == (1 if launcher else 3)  # torchrun has a code of its own


def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    """Standard input is a pipe, and its other end is closed when that one ends."""
    code = (
        "import time\nfrom cli.main import _run\n"
        "_run(['--stop-with-parent', 'inspect', '.'])\ntime.sleep(60)"
    )
    waiting = [sys.executable, "-c", code]
    process = subprocess.Popen(waiting, stdin=subprocess.PIPE, cwd=tmp_path, stderr=subprocess.PIPE)
    assert process.stdin is not None and process.stderr is not None
    process.stderr.readline()  # it has refused the folder, and sleeps
    process.stdin.close()
    assert process.wait(timeout=60) == -signal.SIGTERM


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_parses(name):
    text = command(name).help or ""
    example = re.search(r"Example: (imagetok .*?)(?:\n\n|$)", text, flags=re.S)
    assert example, f"{name}: no example"
    words = shlex.split(example.group(1).replace("\n", " "))
    assert words[1] == name
    parse(words)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name):
    for parameter in command(name).params:
        if isinstance(parameter, click.Option):
            assert parameter.help or parameter.show_default, f"{name} {parameter.name}"
