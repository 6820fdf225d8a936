"""Loading plugins: requested files and modules, and the entry points of installed packages.

Nothing else is ever imported: neither a config nor an artifact can name a module.
"""

import importlib
import importlib.util
import logging
import re
import sys
import threading
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from imagetok.errors import ConfigError

logger = logging.getLogger("imagetok")
GROUP = "imagetok.plugins"
"""The entry point group that packages use."""
_PREFIX = "imagetok_plugin_"
"""Prefix of the module name of a plugin file, so that it cannot shadow another module."""


class InstalledPlugin(NamedTuple):
    """An entry point of an installed package."""

    package: str
    """Name of the distribution, as pip knows it."""
    version: str
    entry: str
    """`module` or `module:function`."""
    error: str
    """Why it could not be loaded; empty where it was, or where nothing needed it yet."""


class Origin(NamedTuple):
    """A plugin that is being loaded: it provides the parts that are registered meanwhile."""

    package: str = ""
    version: str = ""
    plugin: str = ""
    """File or module to give to `--plugin`; empty for an entry point."""


_lock = threading.RLock()
_asked: dict[str, str] = {}
"""Plugins that were loaded by request: what `--plugin` takes, absolute -> name of the module."""
_errors: dict[str, str] | None = None
"""Failures of entry points by package, once they were loaded."""
_origins: list[Origin] = []


def current_origin() -> Origin | None:
    """Return the plugin that is being loaded; None if none is."""
    return _origins[-1] if _origins else None


def load_plugin(source: Path | str) -> None:
    """Load a plugin (a Python file or an importable module), which registers custom parts.

    >>> imagetok.load_plugin("soft_vq.py")     # as `imagetok --plugin soft_vq.py ...` does

    source: a path that ends with .py, or the dotted name of a module. Modules beside a file can be
    imported by it. Processes that imagetok starts (trials of a comparison, loader workers) load the
    same plugins. A file that is loaded again runs again. Raises ConfigError where it is missing or
    fails, with the line that failed.
    """
    text = str(source)
    if text.endswith(".py") or "/" in text or isinstance(source, Path):
        path = Path(source).expanduser().resolve()
        if not path.is_file():
            raise ConfigError(f"--plugin {text}: no such file; expected a Python file or a module")
        with _lock, _loading(text, Origin(plugin=str(path))):
            _asked[str(path)] = _run_file(path).__name__
        return
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", text):
        raise ConfigError(
            f"--plugin {text!r}: expected a Python file (.py) or the name of a module, as in "
            "--plugin soft_vq.py or --plugin my_package.quantizers"
        )
    with _lock, _loading(text, Origin(plugin=text)):
        _asked[text] = importlib.import_module(text).__name__


def loaded_plugins() -> tuple[str, ...]:
    """Return the requested plugins in order, in the form in which another process can load them."""
    return tuple(_asked)


def plugin_options() -> list[str]:
    """Return the options with which another imagetok process loads the plugins of this one."""
    return [word for plugin in _asked for word in ("--plugin", plugin)]


def ensure_loaded(plugins: Sequence[str]) -> None:
    """Load the plugins that this process lacks; a DataLoader worker does so before its dataset."""
    for plugin in plugins:
        if plugin not in _asked:
            load_plugin(plugin)


def load_installed() -> None:
    """Load the entry points of every installed package, once.

    A failure is logged with the name of the package and does not affect other packages.
    """
    global _errors
    with _lock:
        if _errors is not None:
            return
        _errors = {}
        for entry in _entries():
            package, version = _package(entry)
            origin = Origin(package, version)
            try:
                with _loading(f"of the package {package}", origin):
                    found = entry.load()
                    if not isinstance(found, ModuleType):
                        found()
            except ConfigError as error:
                _errors[package] = str(error)
                logger.warning("%s; its parts are not available", error)


def installed_plugins() -> list[InstalledPlugin]:
    """Return the entry points of installed packages without loading them."""
    failed = _errors or {}
    return [
        InstalledPlugin(package, version, entry.value, failed.get(package, ""))
        for entry in _entries()
        for package, version in [_package(entry)]
    ]


def blamed(error: BaseException, modules: Collection[str]) -> str:
    """Return the plugin module whose code raised an error; empty if imagetok's own code did.

    modules: those of plugins. Code of libraries is not to blame for what it was called with.
    """
    ours = {"imagetok", "prior", "cli"}
    for frame, _ in reversed([*traceback.walk_tb(error.__traceback__)]):
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] in ours:
            return ""
        if module.partition(".")[0] in {name.partition(".")[0] for name in modules}:
            return module
    return ""


def failures() -> dict[str, str]:
    """Return the errors of entry points that could not be loaded, by package."""
    return dict(_errors or {})


def _entries() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda entry: (_package(entry), entry.name))


def _package(entry: EntryPoint) -> tuple[str, str]:
    dist = entry.dist
    return (dist.name, dist.version) if dist is not None else (entry.value.partition(".")[0], "")


@contextmanager
def _loading(what: str, origin: Origin) -> Iterator[None]:
    """Mark what is registered meanwhile, and turn a failure into one message."""
    _origins.append(origin)
    try:
        yield
    except (Exception, SystemExit) as error:  # a plugin's code may raise anything
        name = f"plugin {what}" if origin.package else f"--plugin {what}"
        raise ConfigError(f"{name}: {_in_words(error)}") from error
    finally:
        _origins.pop()


def _in_words(error: BaseException) -> str:
    """Return the error's message and the line that raised it."""
    if isinstance(error, ConfigError):  # a refused registration says it all
        return str(error)
    if isinstance(error, SyntaxError):
        return f"cannot be loaded: {error.msg} ({error.filename}, line {error.lineno})"
    kind = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename != __file__ and "importlib" not in f.filename]
    where = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"cannot be loaded: {kind}: {error}{where}"


def _run_file(path: Path) -> ModuleType:
    """Run a file as a module with a fixed name, which pickles and messages use."""
    name = _PREFIX + re.sub(r"\W", "_", path.stem)
    held = sys.modules.get(name)
    if held is not None and Path(str(held.__file__)) != path:
        raise ConfigError(
            f"{path} and {held.__file__} have the same name; rename one of them, because plugins "
            "are distinguished by file name"
        )
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last: its neighbours stand for nothing else
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if held is None:
            del sys.modules[name]
        else:
            sys.modules[name] = held
        raise
    return module
