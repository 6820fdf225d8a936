"""Fills the generated parts of pages while MkDocs builds the site.

A page asks for one by a comment on a line of its own: `<!-- commands -->` for the command
reference, `<!-- notebook: NAME.ipynb -->` for the notebook beside the page, `<!-- results -->` for
the classes that the functions on the page return.
"""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import commands
import notebook
import results


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The text of a page with its generated parts."""
    folder = Path(page.file.abs_src_path).parent
    markdown = re.sub(r"^<!-- commands -->$", lambda _: commands.page(), markdown, flags=re.M)
    if "<!-- results -->" in markdown:
        markdown = markdown.replace("<!-- results -->", results.page(markdown))
    return re.sub(
        r"^<!-- notebook: (\S+) -->$",
        lambda found: notebook.page(folder / found[1]),
        markdown,
        flags=re.M,
    )
