"""The README and the docs: their commands parse, their Python runs, their links exist."""

import os
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from cli.main import COMMANDS, _run, imagetok
from imagetok import configs

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.S)


def commands(path: Path) -> list[list[str]]:
    """Every `imagetok ...` or `... -m imagetok ...` line of the page's shell blocks."""
    found = []
    for block in blocks(path, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if "imagetok" in words:
                    found.append(words[words.index("imagetok") + 1 :])
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_commands_parse_and_configs_exist(path):
    for name, *arguments in commands(path):
        command = imagetok.get_command(click.Context(imagetok), name)
        assert command is not None, name
        command.make_context(name, arguments)
        for word in arguments:
            if word.startswith(("configs/", "papers/", "comparisons/", "digits/", "cifar10/")):
                assert configs(word).tree, word


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_exist(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_every_command_is_documented():
    text = (ROOT / "docs" / "commands.md").read_text()
    assert all(f"imagetok {name}" in text for name in COMMANDS)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """The artifacts that the README speaks of, from its own commands on tiny models."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "configs").symlink_to(ROOT / "configs")
    tiny = ["--set", "train.steps=20", "--set", "train.trackers=[]"]
    chain = next(
        block
        for block in blocks(ROOT / "README.md", "sh")
        if block.startswith("imagetok train digits/edvae")
    )
    before = Path.cwd()
    os.chdir(folder)
    try:
        for line in chain.splitlines():
            words = shlex.split(line)[1:]
            assert _run([*words, *tiny] if words[0] == "train" else words) == 0, line
    finally:
        os.chdir(before)
    return folder


@pytest.mark.parametrize("index", range(len(blocks(ROOT / "README.md", "python"))))
def test_python_of_the_readme_runs(workplace, monkeypatch, index):
    monkeypatch.chdir(workplace)
    code = compile(blocks(ROOT / "README.md", "python")[index], f"README block {index}", "exec")
    names: dict[str, object] = {"__name__": "readme"}
    torch.manual_seed(0)
    exec(code, names)  # the README itself
    if "new" in names:
        assert names["new"].shape == (16, 1, 16, 16)  # pyright: ignore[reportAttributeAccessIssue]
    if "loss" in names:  # of the last batch; about 2.3 before training
        assert float(names["loss"]) < 2.2  # pyright: ignore[reportArgumentType]  # it learns
    if "label" in names and "codes" in names:
        assert names["codes"].shape == (4, 4)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.slow
def test_python_of_the_page_on_python_runs(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    code = "\n".join(blocks(ROOT / "docs" / "python.md", "python"))
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, "python.md", "exec"), names)  # the page itself
    assert names["labelled"].written == 100
    assert names["labelled"].dataset[1].label == 1
    assert names["samples"].images.shape == (16, 1, 16, 16)


def test_the_results_table_is_that_of_the_stored_runs():
    import runpy

    table = runpy.run_path(str(ROOT / "benchmarks" / "results_table.py"))["table"]()
    assert table.count("\n") >= 3
    assert table in (ROOT / "README.md").read_text()
