"""A Griffe extension: docstrings as they are written in imagetok become Markdown.

Examples (`>>>`) become code, and lines that begin with the name of a parameter (`limit: only the
first so many images.`) become a list.
"""

import re
from typing import Any

import griffe

FIELD = re.compile(r"^(\w+(?:, \w+)*): (?=\S)")
# Sentences about the whole function, which end a list of parameters.
ENDS = ("Raises ", "Returns ", "Writes ")


class ImagetokDocstrings(griffe.Extension):
    """Rewrites the docstring of every object once it has been read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Give the docstring of an object the form that Markdown needs."""
        if obj.docstring is not None:
            names = {p.name.lstrip("*") for p in getattr(obj, "parameters", [])}
            obj.docstring.value = markdown(obj.docstring.value, names)


def markdown(text: str, parameters: set[str]) -> str:
    """A docstring as Markdown, given the names of the parameters that it may describe."""
    paragraphs = re.split(r"\n\s*\n", text)
    return "\n\n".join(_paragraph(paragraph, parameters) for paragraph in paragraphs)


def _paragraph(text: str, parameters: set[str]) -> str:
    lines = text.splitlines()
    if lines and lines[0].lstrip().startswith(">>>"):
        return "```pycon\n" + text + "\n```"
    written: list[str] = []
    for line in lines:
        found = FIELD.match(line)
        if found and parameters.issuperset(found[1].split(", ")):
            names = ", ".join(f"`{name}`" for name in found[1].split(", "))
            if not written or not written[-1].startswith(("- ", "  ")):
                written.append("")  # a list begins after a blank line
            written.append(f"- {names}: {line[found.end() :]}")
        elif line.startswith(ENDS):
            written += ["", line]
        elif written and written[-1].startswith(("- ", "  ")):
            written.append("  " + line)
        else:
            written.append(line)
    return "\n".join(written)
