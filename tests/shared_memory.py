"""Another /dev/shm for one process: a mount namespace, which the kernel ends with the process."""

import ctypes
import os
from collections.abc import Callable

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000
_READ_ONLY, _BIND, _PRIVATE, _RECURSIVE = 0x1, 0x1000, 0x40000, 0x4000
SMALL = ("tiny", "no names", "read-only", "missing")
"""What it may be: room for 64 KiB, room for no file at all, not to be written, not there."""


def enter(kind: str) -> None:
    """Give this process such a /dev/shm; OSError where namespaces are not allowed.

    Call it in a fork: the process has to have one thread, and there is no way back.
    """
    user, group = os.getuid(), os.getgid()
    _call("unshare", _NEW_USER | _NEW_MOUNTS)
    for name, text in [
        ("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")
    ]:  # fmt: skip
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123
            file.write(text)
    _mount("/", flags=_PRIVATE | _RECURSIVE)
    match kind:
        case "tiny":
            _mount("/dev/shm", "tmpfs", options="size=64k")
        case "no names":
            _mount("/dev/shm", "tmpfs", options="nr_inodes=1")
        case "read-only":
            _mount("/dev/shm", "tmpfs", _READ_ONLY)
        case _:
            _mount_devices("null", "zero", "random", "urandom")


def is_allowed(in_fork: Callable[[Callable[[], None]], int]) -> bool:
    """Whether processes may have mount namespaces here."""
    return in_fork(lambda: enter("tiny")) == 0


def _mount_devices(*names: str) -> None:
    """A /dev with these devices only."""
    descriptors = {name: os.open(f"/dev/{name}", os.O_RDWR) for name in names}
    _mount("/dev", "tmpfs")
    for name, descriptor in descriptors.items():
        os.close(os.open(f"/dev/{name}", os.O_CREAT))
        _mount(f"/dev/{name}", flags=_BIND, source=f"/proc/self/fd/{descriptor}")
        os.close(descriptor)


def _mount(
    target: str, kind: str = "", flags: int = 0, source: str = "none", options: str = ""
) -> None:
    words = [word.encode() for word in (source, target, kind)]
    _call("mount", *words, ctypes.c_ulong(flags), options.encode())


def _call(name: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
