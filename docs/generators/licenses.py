"""Write docs/reference/licenses.md: the licence that each dependency declares in its metadata.

    python docs/generators/licenses.py

Walks what the plain installation and the extras need, as they are installed here.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "reference" / "licenses.md"
EXTRAS = ("eval", "zoo", "data", "heic", "demo")
HEAD = """# Licences of the dependencies

imagetok is under the Apache License 2.0 (`LICENSE`). The digits that come with it are under the
licence beside them (`imagetok/data/resources/DIGITS-LICENSE.txt`). No dependency is copied into
imagetok; `pip` installs each from its own project. The table lists the licence that each package
declares in its metadata, on Linux with a GPU. NVIDIA's packages come with PyTorch's CUDA builds and
are under NVIDIA's own terms. pillow-heif's wheels contain libheif and libde265 (LGPL-3.0) and x265
(GPL-2.0). `python docs/generators/licenses.py` writes this page.

| package | licence | needed by |
|---|---|---|
"""


def project() -> dict[str, list[str]]:
    """The requirements of the plain installation, under "", and of each extra."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return {"": table["dependencies"]} | {e: table["optional-dependencies"][e] for e in EXTRAS}


def closure(requirements: Iterable[str]) -> dict[str, Distribution]:
    """All that the requirements need and that is installed, by name."""
    found: dict[str, Distribution] = {}
    waiting = [(Requirement(text), frozenset[str]()) for text in requirements]
    while waiting:
        requirement, extras = waiting.pop()
        asked = extras | {""}
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in asked):
            continue
        name = canonicalize_name(requirement.name)
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        if name not in found or requirement.extras:
            found[name] = package
            waiting += [
                (Requirement(text), frozenset(requirement.extras))
                for text in package.requires or ()
            ]
    return found


def license_of(package: Distribution) -> str:
    """As declared: an SPDX expression, else classifiers, else the first line of the text."""
    metadata: Any = package.metadata  # an email.message.Message, which its type does not say
    expression = metadata.get("License-Expression")
    if expression:
        return expression
    names = [
        c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier") or () if "License" in c
    ]
    names = [name for name in names if name != "OSI Approved"]
    lines = (metadata.get("License") or "").strip().splitlines()
    return ", ".join(names) or (lines[0][:60] if lines else "not declared")


def rows() -> Iterator[str]:
    """A line of the table for each package."""
    needed: dict[str, list[str]] = {}
    packages: dict[str, Distribution] = {}
    for extra, requirements in project().items():
        for name, package in closure(requirements).items():
            packages[name] = package
            needed.setdefault(name, []).append(f"`[{extra}]`" if extra else "imagetok")
    for name in sorted(packages):
        by = "imagetok" if "imagetok" in needed[name] else ", ".join(needed[name])
        text = re.sub(r"\s+", " ", license_of(packages[name])).replace("|", "/")
        yield f"| {name} | {text} | {by} |"


def main() -> None:
    """Write the page."""
    PAGE.write_text(HEAD + "\n".join(rows()) + "\n", "utf-8")


if __name__ == "__main__":
    main()
