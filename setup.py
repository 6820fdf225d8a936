"""The page for the package index: the README, with links that lead to this version's files.

All else is in pyproject.toml. In the repository the links stay relative, so that they work in a
checkout, in a fork and on every branch.
"""

import re
import runpy
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
NAME = "imagetok/imagetok"
"""Of the repository on GitHub."""


def index_page(readme: str, version: str) -> str:
    """The README with absolute links to the files of a version's tag; code stays as it is."""
    pages = f"https://github.com/{NAME}/blob/v{version}/"
    pictures = f"https://raw.githubusercontent.com/{NAME}/v{version}/"
    relative = r"(?![a-z]+:|#)"
    parts = re.split(r"(^```.*?^```$)", readme, flags=re.MULTILINE | re.DOTALL)
    for i in range(0, len(parts), 2):  # what stands between blocks of code
        for start, target in [
            (r'(!\[[^\]]*\]\(|src=")', pictures),
            (r'(\]\(|href=")', pages),
        ]:
            parts[i] = re.sub(start + relative, rf"\g<1>{target}", parts[i])
    return "".join(parts)


if __name__ == "__main__":
    found = runpy.run_path(str(HERE / "imagetok" / "version.py"))["__version__"]
    setup(
        long_description=index_page((HERE / "README.md").read_text("utf-8"), found),
        long_description_content_type="text/markdown",
    )
