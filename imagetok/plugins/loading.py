"""Loading plugins: requested files and modules, and the entry points of installed packages.

Nothing else is ever imported: neither a config nor an artifact can name a module.
"""

import importlib
import io
import logging
import re
import sys
import threading
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from imagetok.errors import ConfigError
from imagetok.plugins.files import PREFIX, is_of, modules_beside, plugin_file, run_as
from imagetok.suggestions import one_line, shown

logger = logging.getLogger("imagetok")
GROUP = "imagetok.plugins"
"""The entry point group that packages use."""
_EXPECTED = (
    "expected a Python file (.py) or the name of a module, as in --plugin soft_vq.py or "
    "--plugin my_package.quantizers"
)


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


registrations: dict[tuple[str, str], Any] = {}
"""Part and name -> its `imagetok.plugins.registry.Registration`."""
_lock = threading.RLock()
_asked: dict[str, str] = {}
"""Plugins that were loaded by request: what `--plugin` takes, absolute -> name of the module."""
_errors: dict[str, str] | None = None
"""Failures of entry points by package, once they were loaded."""
_origins: list[Origin] = []
_beside: dict[Path, list[str]] = {}
"""Plugin file -> the modules beside it that it was the first to import."""


def current_origin() -> Origin | None:
    """Return the plugin that is being loaded; None if none is."""
    return _origins[-1] if _origins else None


def load_plugin(source: Path | str) -> None:
    """Load a plugin (a Python file or an importable module), which registers custom parts.

    >>> imagetok.load_plugin("soft_vq.py")     # as `imagetok --plugin soft_vq.py ...` does

    source: a path that ends with .py, or the dotted name of a module. Modules beside a file can be
    imported by it. Processes that imagetok starts (trials of a comparison, loader workers) load the
    same plugins. A file that is loaded again runs again, with those modules, and what they
    registered before is dropped. One that another plugin or the program imported as a module is not
    run a second time.
    Raises ConfigError where it is missing or fails, with the line that failed; nothing of it is
    registered then.
    """
    if not isinstance(source, Path | str):
        raise ConfigError(f"--plugin {shown(source)}: {_EXPECTED}")
    text = str(source)
    if isinstance(source, Path) or text.endswith(".py") or "/" in text:
        path = plugin_file(text)
        with _lock, _loading(text, Origin(plugin=str(path))):
            _asked[str(path)] = _run_file(path).__name__
        return
    if len(text) > 200 or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", text):
        raise ConfigError(f"--plugin {shown(text)}: {_EXPECTED}")
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
    """Mark what is registered meanwhile, and turn a failure into one message.

    After a failure everything is registered as before. What a plugin prints goes to stderr, because
    stdout belongs to the output of commands.
    """
    held, modules = dict(registrations), {*sys.modules}
    _origins.append(origin)
    try:
        with redirect_stdout(sys.stderr or io.StringIO()):
            yield
    except BaseException as error:  # a plugin's code may raise anything
        _roll_back(held, modules)
        if isinstance(error, KeyboardInterrupt):
            raise
        name = f"plugin {what}" if origin.package else f"--plugin {what}"
        raise ConfigError(f"{name}: {_in_words(error)}") from error
    finally:
        _origins.pop()


def _roll_back(held: dict[tuple[str, str], Any], modules: Collection[str]) -> None:
    """Restore the registrations; new modules that registered others run again when imported."""
    for key in [key for key in registrations if registrations[key] is not held.get(key)]:
        module = _module_of(registrations[key])
        if module not in modules:
            sys.modules.pop(module, None)
    registrations.clear()
    registrations.update(held)


def _in_words(error: BaseException) -> str:
    """Return the error's message and the line that raised it."""
    if isinstance(error, ConfigError):  # a refused registration says it all
        return one_line(str(error), 2000)
    if isinstance(error, SyntaxError):
        return f"cannot be loaded: {error.msg} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    ours = Path(__file__).parent
    own = [f for f in frames if Path(f.filename).parent != ours and "importlib" not in f.filename]
    where = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"cannot be loaded: {in_one_line(error)}{where}"


def in_one_line(error: BaseException) -> str:
    """Return the class and the text of an error of a plugin's code."""
    try:
        text = str(error)
    except Exception as fault:  # its own code makes the text
        text = f"(its text cannot be read: {type(fault).__name__})"
    return f"{type(error).__name__}: {one_line(text)}"


def _run_file(path: Path) -> ModuleType:
    """Run a file as a module with a fixed name, which pickles and messages use."""
    name = PREFIX + re.sub(r"\W", "_", path.stem)
    held = sys.modules.get(name)
    if held is not None and Path(str(held.__file__)) != path:
        raise ConfigError(
            f"{path} and {held.__file__} have the same name; rename one of them, because plugins "
            "are distinguished by file name"
        )
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last, so that files beside it shadow nothing
    imported = sys.modules.get(path.stem)
    if held is None and imported is not None and is_of(imported, path):
        own = [key for key, r in registrations.items() if _module_of(r) == path.stem]
        if own:
            for key in own:
                registrations[key] = registrations[key]._replace(loaded_by=current_origin())
            sys.modules[name] = imported
            for modules in _beside.values():  # a plugin by itself from now on
                modules[:] = [one for one in modules if one != path.stem]
            return imported
    for key in [
        k for k, r in registrations.items() if (r.loaded_by or Origin()).plugin == str(path)
    ]:
        del registrations[key]
    return _run_again(name, path)


def _run_again(name: str, path: Path) -> ModuleType:
    """Run a file, and again the modules beside it that it imports and no other plugin has."""
    removed = {one: sys.modules.pop(one) for one in _beside.get(path, ()) if one in sys.modules}
    before = {*sys.modules}
    try:
        module = run_as(name, path)
    except BaseException:
        for one in modules_beside(path, before):
            del sys.modules[one]
        sys.modules.update(removed)
        raise
    _beside[path] = modules_beside(path, before)
    return module


def _module_of(registration: Any) -> str:
    return registration.qualified_name.partition(":")[0]
