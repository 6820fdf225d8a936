"""The registry as it was before each test."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagetok.plugins import loading, registry

PACKAGE = Path(__file__).parents[2] / "own_parts" / "src" / "imagetok_soft_vq"


@pytest.fixture(autouse=True)
def clean(monkeypatch) -> Iterator[None]:
    """Nothing is registered, and no package has plugins; afterwards all is as it was."""
    modules, path = {*sys.modules}, [*sys.path]
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(loading, "_asked", {})
    monkeypatch.setattr(loading, "_errors", None)
    monkeypatch.setattr(loading, "entry_points", lambda group: [])
    yield
    sys.path[:] = path
    for name in {*sys.modules} - modules:
        if name.startswith(("imagetok_plugin_", "imagetok_soft_vq", "their_")):
            del sys.modules[name]


@pytest.fixture
def plugin(tmp_path) -> Callable[..., Path]:
    """plugin(name, text): a file; without a text the example's quantizer and data source."""

    def write(name: str = "mine.py", text: str | None = None) -> Path:
        example = [(PACKAGE / f"{part}.py").read_text() for part in ("soft_vq", "gradients")]
        (tmp_path / name).write_text("\n".join(example) if text is None else text)
        return tmp_path / name

    return write
