"""CONTRIBUTING's new quantizer, put in place as it says, trains, encodes and decodes."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SECTION = (ROOT / "CONTRIBUTING.md").read_text().partition("## A new quantizer\n")[2]


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)
    return found


def patched(text: str, diff: str) -> str:
    """Each group of added lines put after the line that stands before it in the diff."""
    lines = text.splitlines()
    for context, added in re.findall(r"^ (.*)\n((?:\+.*\n)+)", diff, re.MULTILINE):
        (place,) = [i for i, line in enumerate(lines) if line == context]
        lines[place + 1 : place + 1] = [line[1:] for line in added.splitlines()]
    return "\n".join([*lines, ""])


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the packages with the example in it."""
    folder = tmp_path_factory.mktemp("copy")
    for package in ("imagetok", "prior", "cli"):
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    file = re.search(r"this is `(imagetok/quantizers/\w+\.py)`", SECTION)
    union = re.search(r"And in `(imagetok/quantizers/__init__\.py)`", SECTION)
    assert file is not None and union is not None
    (folder / file[1]).write_text(block("python"))
    (folder / union[1]).write_text(patched((ROOT / union[1]).read_text(), block("diff")))
    return folder


@pytest.mark.slow
def test_the_example_trains_encodes_and_decodes(copy):
    (command,) = [line for line in block("sh").splitlines() if line.startswith("imagetok train")]
    train = shlex.split(command)[1:]
    run = train[train.index("--out") + 1]
    assert train[1].startswith("configs/")
    train[1] = str(ROOT / train[1])
    for key in ("train.steps=4", "train.trackers=[]", "tokenizer.network.width=8"):
        train += ["--set", key]
    tokenizer, shards = ["--tokenizer", f"{run}/tokenizer"], ["--shards", "codes"]
    commands = [
        [*train, "--device", "cpu"],
        ["encode", *tokenizer, "--data", "digits:test", *shards, "--limit", "5"],
        ["decode", *tokenizer, *shards, "--out", "images"],
    ]
    code = f"from cli.main import _run; import sys; sys.exit(any(map(_run, {commands!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=copy,
        env={"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "inputs 5 == written 5 + skipped 0" in done.stdout
    assert "soft-vq" in (copy / run / "config.yaml").read_text()
    assert len(list((copy / "images").glob("*.png"))) == 5


def test_the_example_obeys_the_linter(copy):
    ruff = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml")]
    done = subprocess.run(
        [*ruff, str(copy / "imagetok" / "quantizers")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
