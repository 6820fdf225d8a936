"""Text of others in Markdown: shown as it is, and nothing else."""

import re

_MARKUP = re.compile(r"[\\|<>&]|(?<=\])\(|:(?=//)")


def plain(text: str) -> str:
    """A text in one line that neither ends a table's cell, nor is HTML, a link or an image."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", line)


def block(text: str, language: str = "") -> list[str]:
    """Lines of a block of code that the text cannot end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence + language, text, fence]
