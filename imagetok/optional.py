"""Libraries of the optional extras: imported when needed, or refused with what to install."""

from importlib import import_module
from types import ModuleType

from imagetok.errors import ResourceError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a library of an optional extra.

    module: dotted name, as in `import module`. extra: the extra of `pip install "imagetok[extra]"`
    that brings it. purpose: what needs it, the subject of the message ("t-SNE").
    Raises ResourceError where the library is missing, or where importing it fails.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ResourceError(
            f"{purpose} needs {module.partition('.')[0]}, which cannot be imported ({error}); "
            f'pip install "imagetok[{extra}]"'
        ) from None
