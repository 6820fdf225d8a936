"""Where the configs lie that came with this imagetok: in its checkout, or in its installation."""

import tomllib
from importlib.metadata import Distribution, distributions
from pathlib import Path

from imagetok.errors import ConfigError

INSTALLED = Path("share", "imagetok", "configs")
"""Below the prefix of an installation; pyproject.toml puts them there."""
PROBE = "digits/edvae.yaml"
"""A file that the folder always has."""
SHEETS = ("papers", "comparisons")
"""Folders of sheets; every other file is a config."""


def configs_folder() -> Path:
    """The folder `configs` of a checkout, else that of the installation.

    A checkout has a `pyproject.toml` of the project imagetok beside the package. An installation is
    asked which files it has, so that no other package's folder is ever taken. Raises ConfigError
    where there is neither.
    """
    package = Path(__file__).resolve().parents[1]
    if _is_checkout(package.parent):
        return package.parent / "configs"
    for distribution in distributions(name="imagetok"):
        if Path(str(distribution.locate_file("imagetok"))).resolve() == package:
            for folder in _installed(distribution, package.parent):
                if (folder / PROBE).is_file():
                    return folder.resolve()
    raise ConfigError(
        f"{package}: the named configs are not installed with it; install the wheel of imagetok, "
        "or give the path of a config file"
    )


def config_files() -> list[str]:
    """The names of all configs that are files, sorted: digits/edvae of `digits/edvae.yaml`.

    Raises ConfigError where none are installed.
    """
    folder = configs_folder()
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")]
    return sorted(name for name in names if name.split("/")[0] not in SHEETS)


def _is_checkout(root: Path) -> bool:
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8")).get("project", {})
    except (OSError, ValueError):
        return False
    return project.get("name") == "imagetok" and (root / "configs" / PROBE).is_file()


def _installed(distribution: Distribution, root: Path) -> list[Path]:
    """Where the distribution's list of files has the folder; of `pip install --target`, which moves
    files after the list is written, also below the target.
    """
    ending = (INSTALLED / PROBE).as_posix()
    listed = [file for file in distribution.files or () if file.as_posix().endswith(ending)]
    found = [Path(str(file.locate())).parents[1] for file in listed]
    return [*found, root / INSTALLED] if listed else []
