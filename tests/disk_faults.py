"""What can happen at every operation of a writer on the disk: it is counted, killed, or fails."""

import io
import os
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch


@contextmanager
def at_every_operation(before: Callable[[str], None]):
    """Call `before(name)` ahead of each mkdir, open for writing, write, fsync, rename, unlink."""

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            before("write")
            return super().write(data)

    def opened(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "w" not in mode:
            return genuine["open"](path, mode, *arguments, **options)
        before("open")
        return io.BufferedWriter(Raw(path, mode.replace("b", "")))

    def counted(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            before(name)
            return genuine[name](*arguments, **options)

        return call

    names = ("mkdir", "replace", "unlink")
    genuine: dict[str, Callable[..., Any]] = {name: getattr(Path, name) for name in names}
    genuine |= {"open": Path.open, "fsync": os.fsync}
    with (
        patch.object(Path, "mkdir", counted("mkdir")),
        patch.object(Path, "replace", counted("replace")),
        patch.object(Path, "unlink", counted("unlink")),
        patch.object(Path, "open", opened),
        patch.object(os, "fsync", counted("fsync")),
    ):
        yield


def in_fork(work: Callable[[], None]) -> int:
    """Run work in a forked process; how it ended: 0, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
