"""Finding the folder of the named configs, in a checkout or in an installation of imagetok."""

import tomllib
from importlib.metadata import Distribution, distributions
from pathlib import Path

from imagetok.errors import ConfigError

INSTALLED = Path("share", "imagetok", "configs")
"""Path below the prefix of an installation, as set in pyproject.toml."""
PROBE = "digits/edvae.yaml"
"""A file that the folder always contains."""
SHEETS = ("papers", "comparisons")
"""Folders of sheets."""
NO_CONFIGS = (*SHEETS, "accelerate")
"""Folders of sheets, and of settings of `accelerate launch`; every other file is a config."""


def configs_folder() -> Path:
    """Return the folder `configs` of the checkout, or else that of the installation.

    A checkout has a `pyproject.toml` of the project imagetok beside the package. For an
    installation the list of its files is used, so that another package's folder is never chosen.
    Raises ConfigError if there is neither.
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
        f"{package}: expected the named configs to be installed with it, found none; install the "
        "wheel of imagetok, or pass the path of a config file"
    )


def config_files() -> list[str]:
    """Return the sorted names of all configs that are files: digits/edvae for `digits/edvae.yaml`.

    Raises ConfigError if the configs are not installed.
    """
    folder = configs_folder()
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")]
    return sorted(name for name in names if name.split("/")[0] not in NO_CONFIGS)


def _is_checkout(root: Path) -> bool:
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8")).get("project", {})
    except (OSError, ValueError):
        return False
    return project.get("name") == "imagetok" and (root / "configs" / PROBE).is_file()


def _installed(distribution: Distribution, root: Path) -> list[Path]:
    """Return where the folder may be, according to the distribution's list of files.

    `pip install --target` moves files after it wrote the list, so `root` is tried as well.
    """
    ending = (INSTALLED / PROBE).as_posix()
    listed = [file for file in distribution.files or () if file.as_posix().endswith(ending)]
    found = [Path(str(file.locate())).parents[1] for file in listed]
    return [*found, root / INSTALLED] if listed else []
