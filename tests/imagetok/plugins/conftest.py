"""The registry as it was before each test."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from own_parts.example import write_example

from imagetok.plugins import loading


@pytest.fixture(autouse=True)
def clean(monkeypatch) -> Iterator[None]:
    """Nothing is registered, and no package has plugins; afterwards all is as it was."""
    modules, path = {*sys.modules}, [*sys.path]
    monkeypatch.setattr(loading, "registrations", {})
    monkeypatch.setattr(loading, "_asked", {})
    monkeypatch.setattr(loading, "_errors", None)
    monkeypatch.setattr(loading, "entry_points", lambda group: [])
    yield
    sys.path[:] = path
    for name in {*sys.modules} - modules:
        own = getattr(sys.modules[name], "__name__", "")
        if any(
            one.startswith(("imagetok_plugin_", "imagetok_soft_vq", "their_"))
            for one in (name, own)
        ):
            del sys.modules[name]


@pytest.fixture
def plugin(tmp_path) -> Callable[..., Path]:
    """plugin(name, text): a file; without a text the example's quantizer and data source."""

    def write(name: str = "mine.py", text: str | None = None) -> Path:
        if text is None:
            return write_example(tmp_path / name)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write
