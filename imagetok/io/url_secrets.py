"""Redacting URLs before they are shown or stored: no user, password, query or fragment.

The query of an object store's URL may be a signature that grants access to whoever reads it.
"""

import re
from urllib.parse import unquote, urlsplit

_URL = re.compile(
    r"([a-z][a-z0-9+.-]{0,20}://)(?:[^\s/?#'\"<>]*@)?([^\s?#'\"<>]*)(?:[?#][^\s'\"<>]*[^\s'\"<>:;,.)])?",
    re.IGNORECASE,
)
_MIN_SECRET = 4
"""Least number of characters; shorter values of a query occur in other words by chance."""


def public_url(place: str) -> str:
    """Return a URL, or a pattern of URLs, without secrets; a local path is returned unchanged.

    >>> public_url("https://user:secret@host/{0..9}.tar?signature=abc")
    'https://host/{0..9}.tar'
    """
    if "://" not in place:
        return place
    return re.sub(r"://[^/?#]*@", "://", re.split("[?#]", place, maxsplit=1)[0])


def without_secrets(text: str, *places: str) -> str:
    """Return a message in which all URLs are redacted.

    places: URLs whose secrets are removed outside of URLs too, because libraries quote path and
    query without the host.
    """
    for place in places:
        for secret in sorted(_secrets(place), key=len, reverse=True):
            text = text.replace(secret, "...")
    return _URL.sub(r"\1\2", text)


def _secrets(place: str) -> set[str]:
    if "://" not in place:
        return set()
    # Not urlsplit, which raises for invalid URLs, although these may contain secrets too.
    rest = place.partition("://")[2]
    user_info = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")[0]
    query = re.split("[?#]", rest, maxsplit=1)[1:]
    values = [pair.partition("=")[2] for part in query for pair in part.split("&")]
    found = {user_info, user_info.partition(":")[2], *query, *values}
    found |= {unquote(secret) for secret in found}
    return {secret for secret in found if len(secret) >= _MIN_SECRET}


def split_user(url: str) -> tuple[str, str | None, str]:
    """Return a URL without its user info, the user (None if there is none) and the password."""
    parts = urlsplit(url)
    user_info, at, host = parts.netloc.rpartition("@")
    user, _, password = user_info.partition(":")
    plain = parts._replace(netloc=host).geturl()
    return plain, unquote(user) if at else None, unquote(password)
