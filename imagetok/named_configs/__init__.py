"""Named configs: the files in `configs/`, and the experiments in its sheets of papers' tables.

`configs` lists and opens them; `find_config` opens a config by file or name, and `find_figure` a
table or figure of a paper. The names are imported
when first used, so that shells can complete the names of files without importing pydantic.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagetok.named_configs.catalogue import (
        Catalogue,
        NamedConfig,
        configs,
        find_config,
        find_figure,
    )
    from imagetok.named_configs.figures import FigureRun, NamedFigure
    from imagetok.named_configs.folder import configs_folder

__all__ = [
    "Catalogue",
    "FigureRun",
    "NamedConfig",
    "NamedFigure",
    "configs",
    "configs_folder",
    "find_config",
    "find_figure",
]
_HOMES = {"configs_folder": "folder", "FigureRun": "figures", "NamedFigure": "figures"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'catalogue')}"), name)
