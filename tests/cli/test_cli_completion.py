"""Completion in a shell: a real bash at a terminal, and what it costs."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click import Context

from cli.main import imagetok
from cli.parameters import CONFIG
from imagetok import configs

PROGRAM = Path(sys.executable).parent / "imagetok"
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "shell-completion.md"
PATIENCE = 30
ENTER, TAB, CLEAR, BELL = "\r", "\t", "\x15", "\a"
FRESH = "\n$ "


class Terminal:
    """An interactive bash without anybody's settings."""

    def __init__(self, folder: Path):
        bash = shutil.which("bash")
        version = bash and subprocess.check_output([bash, "-c", "echo $BASH_VERSION"], text=True)
        if not bash or tuple(map(int, re.findall(r"\d+", version or "")[:2])) < (4, 4):
            pytest.skip("needs bash 4.4")
        ours, its = pty.openpty()
        settings = {"PATH": f"{PROGRAM.parent}:{os.environ['PATH']}", "HOME": str(folder)}
        self.process = subprocess.Popen(
            [bash, "--norc", "--noprofile", "-i"],
            stdin=its, stdout=its, stderr=its, cwd=folder, start_new_session=True,
            env={**settings, "TERM": "dumb", "PS1": "$ ", "INPUTRC": "/dev/null"},
        )  # fmt: skip
        os.close(its)
        self.file = ours
        self.shown = ""

    def press(self, keys: str) -> None:
        """Type at the terminal."""
        os.write(self.file, keys.encode())

    def wait(self, text: str) -> str:
        """What is shown up to a text that comes."""
        end = time.monotonic() + PATIENCE
        while text not in self.shown:
            assert time.monotonic() < end, f"waited in vain for {text!r}: {self.shown!r}"
            if select.select([self.file], [], [], 0.1)[0]:
                self.shown += os.read(self.file, 1 << 16).decode().replace(BELL, "")
        before, _, self.shown = self.shown.partition(text)
        return before

    def close(self) -> None:
        """End bash."""
        self.process.kill()
        self.process.wait()
        os.close(self.file)


@pytest.fixture(scope="module")
def terminal(tmp_path_factory) -> Iterator[Terminal]:
    if not PROGRAM.is_file():
        pytest.skip("imagetok is not installed here")
    folder = tmp_path_factory.mktemp("terminal")
    (folder / "my-own.yaml").write_text("kind: tokenizer\n")
    (folder / "photos").mkdir()
    terminal = Terminal(folder)
    (line,) = re.findall(r"^eval .*=bash_source .*$", PAGE.read_text(), flags=re.MULTILINE)
    terminal.press(f'{line}; echo rea"dy"' + ENTER)
    terminal.wait("ready")
    yield terminal
    terminal.close()


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("imagetok reco", "imagetok reconstruct "),
        ("imagetok encode --samples-", "imagetok encode --samples-per-shard "),
        ("imagetok export codes --to par", "imagetok export codes --to parquet "),
        ("imagetok train digits/vqvae-e", "imagetok train digits/vqvae-ema "),
        ("imagetok compare digits/dvae ti", "imagetok compare digits/dvae tiny-imagenet/"),
        ("imagetok train papers/edvae/cifar10/gs-vq", "papers/edvae/cifar10/gs-vqvae"),
        ("imagetok train my-o", "imagetok train my-own.yaml "),
        ("imagetok encode --data ph", "imagetok encode --data photos/"),
        ("imagetok inspect my-", "imagetok inspect my-own.yaml "),
    ],
)  # fmt: skip
def test_bash_completes(terminal, typed, completed):
    terminal.press(CLEAR + ENTER)
    terminal.wait(FRESH)
    terminal.press(typed + TAB)
    terminal.wait(completed)


def test_bash_lists_what_is_possible(terminal):
    terminal.press(CLEAR + ENTER)
    terminal.wait(FRESH)
    terminal.press("imagetok in" + TAB + TAB)
    terminal.wait("\n")
    assert terminal.wait(FRESH).split() == ["init", "inspect", "info"]


@pytest.mark.parametrize("words", ["imagetok ", "imagetok train ", "imagetok compare papers/"])
def test_completing_imports_nothing_heavy(words):
    code = (
        "import sys\nfrom cli.main import main\ntry:\n    main([])\nexcept SystemExit:\n    pass\n"
        "print({'torch', 'numpy', 'transformers', 'matplotlib'} & set(sys.modules))"
    )
    asked = {"_IMAGETOK_COMPLETE": "bash_complete", "COMP_WORDS": words}
    environment = {**os.environ, **asked, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    *completions, imported = done.stdout.splitlines()
    assert len(completions) > 10 and imported == "set()"


def test_every_config_is_completed_by_its_beginning():
    names = configs().names
    for start in {name[:2] for name in names}:
        items = CONFIG.shell_complete(Context(imagetok), imagetok.params[0], start)
        completed = {item.value for item in items if item.type == "plain"}
        assert completed == {name for name in names if name.startswith(start)}
