"""A notebook with its stored outputs as Markdown; nothing is run."""

import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def page(path: Path) -> str:
    """The cells of a notebook in order, each code cell followed by its outputs."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return "\n\n".join(part for cell in cells for part in _cell(cell))


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell.get("outputs", []):
        yield f'<div class="notebook-output">\n{_output(output)}\n</div>'


def _output(output: dict[str, Any]) -> str:
    """The richest form of an output that a page can show."""
    if output["output_type"] == "stream":
        return f"<pre>{html.escape(''.join(output['text']))}</pre>"
    data = output["data"]
    if "text/html" in data:
        # A blank line would end the block of HTML for Markdown.
        return "\n".join(line for line in "".join(data["text/html"]).splitlines() if line.strip())
    if "image/png" in data:
        return (
            f'<img alt="output" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
        )
    return f"<pre>{html.escape(''.join(data['text/plain']))}</pre>"
