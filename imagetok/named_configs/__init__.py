"""Configs by name: the files in `configs/`, and the experiments that its tables of papers describe.

`configs` lists and opens them; `find_config` takes what a user gives as CONFIG, a file or a name.
Names load on first use, so that a shell can complete the names of files without pydantic.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagetok.named_configs.catalogue import Catalogue, NamedConfig, configs, find_config
    from imagetok.named_configs.folder import configs_folder

__all__ = ["Catalogue", "NamedConfig", "configs", "configs_folder", "find_config"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "folder" if name == "configs_folder" else "catalogue"
    return getattr(import_module(f"{__name__}.{home}"), name)
