"""The version of imagetok: that of the checkout it is imported from, else of the installation."""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def _version() -> str:
    # A checkout comes first: an installation may be another one, or from before the last pull.
    try:
        text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
        project = tomllib.loads(text)["project"]
        if project["name"] == "imagetok":
            return str(project["version"])
    except (OSError, ValueError, KeyError):  # no checkout, or somebody else's file
        pass
    try:
        return version("imagetok")
    except PackageNotFoundError:
        return "unknown"


__version__ = _version()
