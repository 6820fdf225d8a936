"""Escaping foreign text for Markdown, so that it is shown literally."""

import re

_MARKUP = re.compile(r"[\\|<>&]|(?<=\])\(|:(?=//)")


def plain(text: str) -> str:
    """Return a text as one line that cannot end a table cell or become HTML, a link or an image."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", line)


def block(text: str, language: str = "") -> list[str]:
    """Return the lines of a fenced code block that the text cannot close."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence + language, text, fence]
