"""docs/how-to/own-parts.md: every file in it is written down, linted, and every command runs."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from cli.main import _run
from imagetok.plugins import loading

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "how-to" / "own-parts.md").read_text()
FILES = dict(re.findall(r"is `(\w+\.py)`[^`]*```python\n(.*?)```", PAGE, re.DOTALL))
TEST = re.findall(r"```python\n(from soft_vq.*?)```", PAGE, re.DOTALL)[0]
COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
TINY = ["train.steps=2", "train.trackers=[]"]


@pytest.fixture(autouse=True)
def clean(monkeypatch) -> None:
    monkeypatch.setattr(loading, "registrations", {})
    monkeypatch.setattr(loading, "_asked", {})


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the page's files, and images for the data source."""
    folder = tmp_path_factory.mktemp("guide")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (folder / "test_soft_vq.py").write_text(TEST)
    draw = np.random.default_rng(0)
    splits = {"train": 20, "test": 8}
    images = {
        f"{s}_images": draw.integers(256, size=(n, 8, 8)).astype(np.uint8)
        for s, n in splits.items()
    }
    np.savez(
        folder / "images.npz",
        **images,
        **{f"{s}_labels": np.arange(n) % 3 for s, n in splits.items()},
    )
    return folder


def smaller(words: list[str]) -> list[str]:
    """A command of the page with fewer steps."""
    if "train" not in words:
        return words
    settings = [*TINY, "tokenizer.network.width=8"] if "digits/edvae" in words else TINY
    return [*words, *(word for text in settings for word in ("--set", text)), "--device", "cpu"]


def test_the_page_has_an_example_of_every_part():
    assert FILES.keys() == {"soft_vq.py", "patches.py", "npz_images.py", "gru.py", "edges.py"}


def test_the_examples_obey_the_linter(place):
    ruff = [sys.executable, "-m", "ruff"]
    settings = ["--config", str(ROOT / "pyproject.toml"), *(str(place / name) for name in FILES)]
    for check in ("check", "format --check"):
        command = [*ruff, *check.split(), *settings]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_commands_of_the_page_run_in_order(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    for words in COMMANDS:
        assert _run(smaller(words)) == 0, (words, capsys.readouterr().err)
    assert len([*Path("samples").rglob("*.png")]) >= 16
    loading.load_plugin("soft_vq.py")
    monkeypatch.syspath_prepend(place)
    done: dict[str, object] = {}
    exec(TEST, done)
    done["test_soft_vq_keeps_the_contract"]()


def test_a_quantizer_of_the_page_trains_and_encodes(place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for words in COMMANDS[:2]:
        words[1] = str(place / words[1])
        assert _run(smaller(words)) == 0
    assert (tmp_path / "codes" / "train" / "manifest.json").is_file()


def test_the_package_of_the_page_has_an_entry_point():
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    project = tomllib.loads(text)["project"]
    assert project["entry-points"][loading.GROUP] == {"soft-vq": "soft_vq"}
