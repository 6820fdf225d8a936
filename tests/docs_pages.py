"""The pages of the documentation: their code blocks, links and anchors, as the tests read them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
REPOSITORY = (
    "https://github.com/imagetok/imagetok/blob/main/",
    "https://github.com/imagetok/imagetok/tree/main/",
    "https://raw.githubusercontent.com/imagetok/imagetok/main/",
)
"""Where files of this checkout are found by others."""
SITE = "https://imagetok.github.io/imagetok/"
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\n```python\n(.*?)```", re.S)


def name(path: Path) -> str:
    """A page's path in the repository: what tests are called by."""
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.S)


def blocks_to_run(path: Path) -> list[str]:
    """The Python blocks of a page, without those that say why they cannot be run."""
    excused = [code for _, code in _NOT_RUN.findall(path.read_text())]
    return [code for code in blocks(path, "python") if code not in excused]


def commands(path: Path) -> list[list[str]]:
    """Every `imagetok ...` or `... -m imagetok ...` line of the page's shell blocks."""
    found = []
    for block in blocks(path, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if "imagetok" in words and words[: words.index("imagetok")] != ["pip", "install"]:
                    found.append(words[words.index("imagetok") + 1 :])
    return found


def links(path: Path) -> list[str]:
    """Where the links and pictures of a page lead."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", path.read_text(), flags=re.S))


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as MkDocs and GitHub make them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.M)
    kept = ["".join(c for c in h.lower() if c.isalnum() or c in " -_") for h in headings]
    return {re.sub(r"\s", "-", heading.strip()) for heading in kept}
