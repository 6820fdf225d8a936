"""Plugin files: valid paths, and running a file as a module."""

import importlib.util
import re
import sys
from collections.abc import Collection
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from imagetok.errors import ConfigError
from imagetok.suggestions import one_line, shown

PREFIX = "imagetok_plugin_"
"""Prefix of the module name of a plugin file, so that it cannot shadow another module."""
PLUGIN_NAME = r"\w[\w.-]{0,99}"
"""What a record may name: a file without its folder, or a dotted module."""


def plugin_file(text: str) -> Path:
    """Return the absolute path of a plugin file; raises ConfigError if it cannot be one."""
    try:
        path = Path(text).expanduser().resolve()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL byte, no such user, a long name
        raise ConfigError(f"--plugin {shown(text)}: not a path: {one_line(str(error))}") from None
    if is_folder:
        found = "a folder"
    elif is_file and path.suffix != ".py":
        found = "a file without .py"
    elif is_file and not re.fullmatch(PLUGIN_NAME, path.name):
        found = "a file whose name has other characters than letters, digits, _, - and ."
    elif not is_file:
        found = "no such file"
    else:
        return path
    name = text if text.isprintable() and len(text) <= 4096 else shown(text)
    raise ConfigError(f"--plugin {name}: {found}; expected a Python file (.py) or a module")


class _FromSource(SourceFileLoader):
    """Loader without a cache, which would miss an edit within a second that keeps the size."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the file."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def run_as(name: str, path: Path) -> ModuleType:
    """Run a file as a module that other plugins can import by the plain name of the file.

    The plain name stays with another module that has it, of Python or installed.
    """
    names = [name, path.stem] if _is_free(path, name) else [name]
    held = {one: sys.modules.get(one) for one in names}
    spec = importlib.util.spec_from_file_location(name, path, loader=_FromSource(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.update(dict.fromkeys(names, module))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        for one, before in held.items():
            sys.modules.pop(one, None)
            if before is not None:
                sys.modules[one] = before
        raise
    return module


def _is_free(path: Path, name: str) -> bool:
    """Return whether a file's plain name is that of no other module."""
    held = sys.modules.get(path.stem)
    if held is not None:
        return held.__name__ == name or is_of(held, path)
    try:
        spec = importlib.util.find_spec(path.stem) if path.stem.isidentifier() else None
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == path


def is_of(module: ModuleType, path: Path) -> bool:
    """Return whether a module was read from a file."""
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and Path(file).resolve() == path


def modules_beside(path: Path, before: Collection[str]) -> list[str]:
    """Return the modules of a file's folder that were not imported before and are no plugins."""
    plugins = [module for name, module in sys.modules.items() if name.startswith(PREFIX)]
    found = []
    for name in {*sys.modules} - {*before}:
        module = sys.modules[name]
        top = name.partition(".")[0]
        file = Path(getattr(sys.modules.get(top), "__file__", None) or "/").resolve()
        folder = file.parents[1] if file.name == "__init__.py" else file.parent
        is_ours = top in ("imagetok", "prior", "cli")
        if folder == path.parent and not is_ours and all(module is not one for one in plugins):
            found.append(name)
    return found
