"""The classes that the functions of a Python reference page return, as mkdocstrings directives."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("imagetok", "prior")
DIRECTIVE = """::: {name}
    options:
      heading_level: 3
      show_root_full_path: false
      show_if_no_docstring: true
      filters: ["!^_", "!^(title|rows|pictures|of)$"]
"""


@cache
def _loader() -> griffe.GriffeLoader:
    loader = griffe.GriffeLoader(search_paths=[str(ROOT)])
    for package in PACKAGES:
        loader.load(package)
    loader.resolve_aliases()
    return loader


def page(markdown: str) -> str:
    """Directives for what the functions that a page shows return, each class once."""
    shown = re.findall(r"^::: (\S+)$", markdown, flags=re.M)
    names = dict.fromkeys(name for path in shown for name in _returned(path))
    return "\n".join(DIRECTIVE.format(name=name) for name in names if name not in shown)


def _returned(path: str) -> Iterator[str]:
    """The classes of its own package that a function returns, but for those with public names."""
    found, package = _resolved(path), path.partition(".")[0]
    if not found.is_function or not isinstance(found.returns, griffe.Expr):
        return
    public = _loader().modules_collection[package].exports or []
    for part in found.returns.iterate(flat=True):
        if isinstance(part, griffe.ExprName) and part.canonical_path.startswith(f"{package}."):
            target = _resolved(part.canonical_path)
            if target.is_class and target.name not in public:
                yield target.path


def _resolved(path: str) -> Any:
    found = _loader().modules_collection[path]
    return found.final_target if found.is_alias else found
