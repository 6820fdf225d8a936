"""What of a URL may be shown and stored: never its user, password, query or fragment.

Those of an object store are a signature, which lets everybody in who reads it.
"""

import re
from urllib.parse import unquote, urlsplit

_URL = re.compile(
    r"([a-z][a-z0-9+.-]{0,20}://)(?:[^\s/?#'\"<>]*@)?([^\s?#'\"<>]*)(?:[?#][^\s'\"<>]*[^\s'\"<>:;,.)])?",
    re.IGNORECASE,
)
_MIN_SECRET = 4
"""Characters; shorter values of a query stand in many words by chance."""


def public_url(place: str) -> str:
    """A URL, or a pattern of them, as it may be stored; a local path stays as it is.

    >>> public_url("https://user:secret@host/{0..9}.tar?signature=abc")
    'https://host/{0..9}.tar'
    """
    if "://" not in place:
        return place
    return re.sub(r"://[^/?#]*@", "://", re.split("[?#]", place, maxsplit=1)[0])


def without_secrets(text: str, *places: str) -> str:
    """A message with all URLs as they may be shown.

    places: URLs whose secrets are removed also where they stand alone, as libraries name the path
    and the query of an address without its host.
    """
    for place in places:
        for secret in sorted(_secrets(place), key=len, reverse=True):
            text = text.replace(secret, "...")
    return _URL.sub(r"\1\2", text)


def _secrets(place: str) -> set[str]:
    if "://" not in place:
        return set()
    # Not urlsplit: a URL that is refused may have secrets all the same.
    rest = place.partition("://")[2]
    user_info = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")[0]
    query = re.split("[?#]", rest, maxsplit=1)[1:]
    values = [pair.partition("=")[2] for part in query for pair in part.split("&")]
    found = {user_info, user_info.partition(":")[2], *query, *values}
    found |= {unquote(secret) for secret in found}
    return {secret for secret in found if len(secret) >= _MIN_SECRET}


def split_user(url: str) -> tuple[str, str | None, str]:
    """A URL without its user info, and the user and password; no user where it names none."""
    parts = urlsplit(url)
    user_info, at, host = parts.netloc.rpartition("@")
    user, _, password = user_info.partition(":")
    plain = parts._replace(netloc=host).geturl()
    return plain, unquote(user) if at else None, unquote(password)
