"""The README and the docs: commands parse, Python runs, links, anchors and names exist."""

import ast
import os
import pkgutil
import re
import runpy
import shlex
import shutil
from pathlib import Path
from typing import Any

import click
import docs_pages
import pytest
import torch
import yaml
from docs_pages import DOCS, PAGES, ROOT, anchors, blocks, blocks_to_run, commands, links

import imagetok as library
import prior
from cli.main import COMMANDS, _run, imagetok
from imagetok import configs
from imagetok.config import validate
from imagetok.training.config import TokenizerRun
from imagetok.training.config_input import kind_of, open_config
from prior.config import PriorRun

PACKAGES = {"imagetok": library, "prior": prior}
OF_DOCS = [page for page in PAGES if page.is_relative_to(DOCS)]
RUNS = {"tokenizer": TokenizerRun, "prior": PriorRun}
RUN = [page for page in OF_DOCS if blocks_to_run(page)]


@pytest.mark.parametrize("path", PAGES, ids=docs_pages.name)
def test_commands_parse_and_configs_exist(path):
    written: set[str] = set()  # by `imagetok init`; test_starting_config.py loads and trains these
    for words in commands(path):
        has_plugin = words[0] == "--plugin"  # test_own_parts_guide.py runs these
        while words[0] == "--plugin":
            words = words[2:]
        name, *arguments = words
        if name == "--help":
            continue
        command = imagetok.get_command(click.Context(imagetok), name)
        assert command is not None, name
        parameters = command.make_context(name, arguments).params
        if name == "init":
            written |= {f"{parameters['folder'].name}{ending}" for ending in (".yaml", "-gpt.yaml")}
        for word in arguments:
            if word.startswith(("configs/", "papers/", "comparisons/", "digits/", "cifar10/")):
                assert configs(word).tree, word
        if name == "train" and not has_plugin and parameters["config"] not in written:
            config, changes = parameters["config"], parameters["overrides"]
            run = RUNS[kind_of(config, changes)]
            validate(open_config(config, changes).tree, run, config)


@pytest.mark.parametrize("path", PAGES, ids=docs_pages.name)
def test_links_lead_to_files_and_headings(path):
    for link in links(path):
        target, _, anchor = link.partition("#")
        repository = next((u for u in docs_pages.REPOSITORY if target.startswith(u)), None)
        if repository is not None:
            file = ROOT / target.removeprefix(repository)
        elif target.startswith(docs_pages.SITE):
            page = target.removeprefix(docs_pages.SITE) or "index.html"
            file = (DOCS / page).with_suffix(".md") if page.endswith(".html") else DOCS / page
        elif target.startswith("http"):
            continue
        else:
            file = path.parent / target if target else path
        assert file.exists(), link
        # Those of generated parts are checked by the build of the site.
        if anchor and file.suffix == ".md" and file.name not in ("commands.md", "config-keys.md"):
            assert anchor in anchors(file), link


def test_every_page_is_in_the_navigation():
    tree = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = re.findall(r"[\w/-]+\.md", str(tree["nav"]))
    pages = {page.relative_to(DOCS).as_posix() for page in OF_DOCS}
    fragments = {page for page in pages if page.startswith("results/cifar10-codebook/")}
    assert sorted(listed) == sorted(pages - fragments), "add or remove it under nav in mkdocs.yml"


def test_the_command_reference_has_every_command_and_option():
    text = runpy.run_path(str(DOCS / "generators" / "commands.py"))["page"]()
    assert re.findall(r"^## `imagetok (\S+)`", text, flags=re.M) == list(COMMANDS)
    for name in COMMANDS:
        command = imagetok.get_command(click.Context(imagetok), name)
        assert command is not None
        section = text.split(f"## `imagetok {name}`")[1].split("\n## ")[0]
        for option in (p for p in command.params if isinstance(p, click.Option)):
            assert f"| `{option.opts[0]}`" in section, option.opts


def test_every_public_name_is_in_the_python_reference():
    text = "".join(page.read_text() for page in (DOCS / "reference" / "python").glob("*.md"))
    named = set(re.findall(r"^::: (\S+)$", text, flags=re.M))
    for package, module in PACKAGES.items():
        wanted = {f"{package}.{n}" for n in module.__all__ if not n.startswith("__")}
        assert wanted - named - {"imagetok.ImagetokError"} == set()  # that is with the errors
    assert "imagetok.errors" in named
    for name in named:
        assert pkgutil.resolve_name(name) is not None


@pytest.mark.parametrize("path", OF_DOCS, ids=docs_pages.name)
def test_python_uses_public_names(path):
    for block in blocks(path, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                package = PACKAGES.get(node.value.id)
                assert package is None or node.attr in package.__all__, ast.unparse(node)
            if isinstance(node, ast.ImportFrom) and node.module in PACKAGES:
                public = PACKAGES[node.module].__all__
                assert all(alias.name in public for alias in node.names), ast.unparse(node)


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
@pytest.mark.parametrize("path", RUN, ids=docs_pages.name)
def test_python_of_the_docs_runs(workplace, tmp_path, monkeypatch, path):
    for made in ("runs", "samples"):
        shutil.copytree(workplace / made, tmp_path / made)
    monkeypatch.chdir(tmp_path)
    code = compile("\n".join(blocks_to_run(path)), path.name, "exec")
    names: dict[str, Any] = {"__name__": "page"}
    torch.manual_seed(0)
    exec(code, names)  # the page itself
    if path.parent.name == "python":
        assert names["labelled"].written == 100
        assert names["labelled"].dataset[1].label == 1
        assert names["samples"].images.shape == (16, 1, 16, 16)
    if path.name == "use-codes.md":
        assert float(names["loss"]) < 2.2  # it learns
        assert names["label"] in range(10) and names["images"].shape == (8, 1, 16, 16)


def test_the_results_table_is_that_of_the_stored_runs():
    table = runpy.run_path(str(ROOT / "benchmarks" / "results_table.py"))["table"]()
    assert table.count("\n") >= 3
    assert table in (ROOT / "README.md").read_text()
