"""The tutorial: its cells parse and use public names only, and they run."""

import ast
import json
from pathlib import Path

import pytest

import imagetok
import prior

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "tutorial" / "pictures.ipynb"
PACKAGES = {"imagetok": imagetok, "prior": prior}


def cells() -> list[str]:
    content = json.loads(NOTEBOOK.read_text())
    return ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == "code"]


def test_the_cells_parse_and_use_public_names_only():
    used = set()
    for cell in cells():
        for node in ast.walk(ast.parse(cell)):
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in PACKAGES, "import the package"
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.split(".")[0]
                    assert top not in PACKAGES or alias.name == top, alias.name
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                package = PACKAGES.get(node.value.id)
                if package is not None:
                    assert node.attr in package.__all__, f"{node.value.id}.{node.attr}"
                    used.add(f"{node.value.id}.{node.attr}")
    assert {"imagetok.train", "imagetok.encode", "prior.train", "prior.generate"} <= used


def test_the_outputs_are_there_small_and_of_no_machine():
    text = NOTEBOOK.read_text()
    assert len(text) < 400_000
    content = json.loads(text)
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert all(output["output_type"] in ("execute_result", "display_data") for output in outputs)
    assert sum("base64" in json.dumps(o) or "image/png" in o["data"] for o in outputs) >= 4
    assert "/home/" not in text and "/root/" not in text and "/tmp/" not in text


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    shown = [
        output["data"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    assert sum("data:image/png" in data.get("text/html", "") for data in shown) >= 3
    assert any("image/png" in data for data in shown)
