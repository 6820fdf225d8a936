"""docs/reference/licenses.md names every package that the installation and the extras ask for."""

import re
import runpy
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DOCS = Path(__file__).parent.parent / "docs"


def test_every_requirement_is_listed_with_a_licence():
    page = (DOCS / "reference" / "licenses.md").read_text()
    listed = dict(re.findall(r"^\| (\S+) \| (.+?) \| ", page, flags=re.M))
    asked = runpy.run_path(str(DOCS / "generators" / "licenses.py"))["project"]()
    assert {"", "eval", "zoo", "data", "heic", "demo"} == set(asked)
    for text in (text for requirements in asked.values() for text in requirements):
        name = canonicalize_name(Requirement(text).name)
        assert listed.get(name, "not declared") != "not declared", (
            f"run docs/generators/licenses.py: {name}"
        )
