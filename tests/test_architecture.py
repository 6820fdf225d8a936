"""Imports point one way: cli -> prior -> imagetok, and inside imagetok upwards only."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = [
    {"errors", "io", "config", "durable", "eval_mode", "seeding", "suggestions", "version"}
    | {"protocols", "arguments", "indices", "config_faults"}
    | {"distributed", "plugins", "precision", "processes", "host_copy", "cuda_graph"},
    {
        "images",
        "code_maps",
        "fonts",
        "batch_size",
        "artifacts",
        "hub",
        "progress",
        "signals",
        "optional",
    },
    {"pictures", "results", "pretrained"},
    {"caches", "named_configs"},
    {"environment"},
    {"quantizers", "networks", "data"},  # never each other
    {"tokenizers", "testing"},
    {"codes", "conversion"},
    {"evaluation"},
    {"training"},
    {"reporting"},  # draws: neither codes nor training do
    {"analysis"},
    {"comparison"},
    {"inspection", "verification"},  # of every kind of folder
]
ENTRY_POINT = ROOT / "imagetok" / "__main__.py"
READERS_OF_PICKLES = [
    ROOT / "imagetok" / "evaluation" / "published_weights.py",
    ROOT / "imagetok" / "conversion" / "checkpoints.py",
]
ALONE = {"quantizers", "networks", "data"}
WITHOUT_CLICK = {"__init__.py", "demo_page.py", "demo_server.py", "quickstart_pipeline.py"}


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, also inside functions."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found.add(module)
            found |= {f"{module}.{alias.name}" for alias in node.names if module == "imagetok"}
    return found


def row_of(room: str) -> int:
    return next(i for i, row in enumerate(ROWS) if room in row)


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", files("imagetok"), ids=lambda p: str(p.relative_to(ROOT)))
def test_imagetok_imports_only_what_is_above(path):
    if path == ENTRY_POINT:
        assert {n for n in imports(path) if n.split(".")[0] in {"prior", "cli"}} == {"cli.main"}
        return
    parts = path.relative_to(ROOT / "imagetok").parts
    room = parts[0].removesuffix(".py")
    for name in imports(path):
        top = name.split(".")[0]
        assert top not in {"prior", "cli", "click"}, name
        if top != "imagetok" or room == "__init__" or name == "imagetok":
            continue
        other = name.split(".")[1]
        if other == room:
            continue
        assert row_of(other) <= row_of(room), f"{room} imports {other}"
        assert not (room in ALONE and other in ALONE), f"{room} imports {other}"


@pytest.mark.parametrize("path", files("prior"), ids=lambda p: p.name)
def test_prior_knows_no_command(path):
    assert not {name for name in imports(path) if name.split(".")[0] in {"cli", "click"}}


def test_click_is_imported_in_cli_only_and_everywhere_there():
    for package in ("imagetok", "prior", "cli"):
        for path in files(package):
            has_click = any(name.split(".")[0] == "click" for name in imports(path))
            if package != "cli" or path.name in WITHOUT_CLICK:
                assert not has_click, path
            else:
                assert has_click, f"{path}: belongs in imagetok or prior"


def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name; a package is its __init__."""
    found = {}
    for package in ("imagetok", "prior", "cli"):
        for path in files(package):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_modules(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of ours that a file imports: at its top, inside functions, or for types only."""
    found = {name for name in imports(path) if name in known}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
            # Of a package whose submodules alone are named, nothing else is used.
            if len(submodules) == len(node.names):
                found.discard(node.module or "")
            found |= submodules
    return found


def test_imports_go_round_through_base_and_build_only():
    """A base class loads its leaves by way of `build`, and that is the only circle.

    (But for an analysis that, if asked, writes the page of its result, which names the result.)
    """
    known = modules()
    graph = {}
    for name, path in known.items():
        build = f"{name.removesuffix('base')}build" if name.endswith(".base") else ""
        page = f"{name}_page" if name.startswith("imagetok.analysis.") else ""
        graph[name] = imported_modules(path, known) - {name, build, page}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


GLOBAL_GENERATORS = {("torch", "manual_seed"), ("torch", "default_generator")}


def test_dangerous_calls_are_absent():
    banned = {"eval", "exec"}
    attributes = {("torch", "load"), ("torch", "save"), ("yaml", "unsafe_load")}
    for package in ("imagetok", "prior", "cli"):
        for path in files(package):
            if path in READERS_OF_PICKLES:
                continue
            assert not {n for n in imports(path) if n.split(".")[0] == "pickle"}, path
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                    assert node.id not in banned, f"{path}: {node.id}"
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    assert (node.value.id, node.attr) not in attributes, path
                    if (node.value.id, node.attr) in GLOBAL_GENERATORS:
                        assert path.name == "seeding.py", path


@pytest.mark.parametrize("path", READERS_OF_PICKLES, ids=lambda path: path.stem)
def test_published_weights_are_read_as_tensors_only(path):
    """Networks that others publish as .pth files: nothing but tensors is unpickled."""
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"torch.load", "pickle.load"}
    ]
    assert calls
    for call in calls:
        assert "weights_only=True" in ast.unparse(call)


def test_no_package_has_a_function_and_a_module_of_one_name():
    """The first import of the module would replace the function."""
    known = modules()
    for package, path in known.items():
        if path.name == "__init__.py":
            imported = [
                n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)
            ]
            names = {
                f"{package}.{alias.asname or alias.name}" for n in imported for alias in n.names
            }
            assert not names & known.keys(), path
