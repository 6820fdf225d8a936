"""Start-up, help texts and their examples."""

import re
import shlex
import subprocess
import sys

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
