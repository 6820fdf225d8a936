"""Importing libraries of optional extras, with an error that names what to install."""

from importlib import import_module
from types import ModuleType

from imagetok.errors import ResourceError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a library of an optional extra.

    module: dotted name, as in `import module`. extra: the extra of `pip install "imagetok[extra]"`
    that installs it. purpose: the feature that needs it, for the message ("t-SNE").
    Raises ResourceError if the library is missing or cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ResourceError(
            f"{purpose} needs {module.partition('.')[0]}, which cannot be imported ({error}); "
            f'pip install "imagetok[{extra}]"'
        ) from None
