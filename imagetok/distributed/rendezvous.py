"""Rendezvous of a run's processes with a time limit and messages about missing processes.

It is registered with torch as a rendezvous method, because torch's own waits silently for as long
as a collective of the run may take.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlparse

from torch.distributed import DistError, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import register_rendezvous_handler

from imagetok.errors import ResourceError

METHOD = "imagetok://"
"""`init_method` of a process group with this rendezvous."""
CONNECT_TIMEOUT = 600.0
"""Seconds within which all processes have to start."""
REPORT_EVERY = 15.0
"""Seconds between two log lines about missing processes."""
logger = logging.getLogger("imagetok")


def _rendezvous(url: str, **_: Any) -> Iterator[tuple[Store, int, int]]:
    """Yield store, rank and number of processes; torch's interface, called once per run."""
    query = parse_qs(urlparse(url).query)
    rank, size = (_number(query, name) for name in ("rank", "world_size"))
    end = time.monotonic() + CONNECT_TIMEOUT
    store = _reach(rank, size, end)
    try:
        _gather(store, rank, size, end)
    except DistError as error:
        raise ResourceError(
            f"the first process of this run ended while it waited for all {size} processes "
            f"({_brief(error)}); see its own message for the reason"
        ) from None
    yield store, rank, size
    raise RuntimeError("a run has one rendezvous")


def _number(query: dict[str, list[str]], name: str) -> int:
    """Return a number from torch's URL, or else from the launcher's environment variable."""
    number = int(query.get(name, ["-1"])[0])
    return number if number >= 0 else int(os.environ[name.upper()])


def _reach(rank: int, size: int, end: float) -> Store:
    """Return the store, which the launcher or else the first process serves."""
    host, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ["MASTER_PORT"])
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not serves:
        _wait_for_server(host, port, rank, size, end)
    try:
        return TCPStore(
            host,
            port,
            size,
            is_master=serves,
            timeout=timedelta(seconds=60),
            wait_for_workers=False,
            multi_tenant=serves,
        )
    except DistError as error:
        fault = f"the first process cannot listen there ({_brief(error)}); choose a port"
        raise ResourceError(
            f"MASTER_ADDR={host} MASTER_PORT={port}: {fault} that is free"
            if serves
            else f"MASTER_ADDR={host} MASTER_PORT={port}: no process of this run answers there "
            f"({_brief(error)}); check address and port of the first process"
        ) from None


def _wait_for_server(host: str, port: int, rank: int, size: int, end: float) -> None:
    """Return when a server listens at the address; the store's own waiting logs C++ traces."""
    is_first_here = os.environ.get("LOCAL_RANK", "0") == "0"
    message = time.monotonic()
    while True:
        try:
            socket.create_connection((host, port), timeout=REPORT_EVERY).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
        now = time.monotonic()
        if now >= end:
            raise ResourceError(
                f"process {rank} waited {CONNECT_TIMEOUT:g} s for the first of {size} processes, "
                f"at MASTER_ADDR={host} MASTER_PORT={port} ({reason}); start all of them, with the "
                "address of the first one's machine and a port that is open on it"
            )
        if is_first_here and now - message >= REPORT_EVERY:
            # Logged as an error, because only the first process shows lower levels.
            logger.error("waiting for the first of %d processes, at %s:%d", size, host, port)
            message = now
        time.sleep(0.1)


def _gather(store: Store, rank: int, size: int, end: float) -> None:
    """Return when all processes have arrived; raises ResourceError after CONNECT_TIMEOUT."""
    # A launcher that restarts its processes keeps the store, so each start has its own prefix.
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    arrivals = PrefixStore(f"imagetok-{start}", store)
    arrivals.set(f"process-{rank}", "there")
    count, message = arrivals.add("count", 1), time.monotonic()
    while count < size:
        now = time.monotonic()
        if now >= end:
            raise ResourceError(
                f"waited {CONNECT_TIMEOUT:g} s for {size - count} of {size} processes "
                f"({_missing(arrivals, size)}); start all of them, with the same MASTER_ADDR, "
                "MASTER_PORT and number of processes, and check their messages"
            )
        if rank == 0 and now - message >= REPORT_EVERY:
            absent = _missing(arrivals, size)
            logger.info("waiting for %d of %d processes (%s)", size - count, size, absent)
            message = now
        time.sleep(0.05 if now - message < 1 else 0.5)
        count = arrivals.add("count", 0)


def _missing(arrivals: Store, size: int) -> str:
    absent = [str(rank) for rank in range(size) if not arrivals.check([f"process-{rank}"])]
    more = f" and {len(absent) - 8} more" if len(absent) > 8 else ""
    return f"process {', '.join(absent[:8])}{more}"


def _brief(error: Exception) -> str:
    return str(error).split("\n", 1)[0].rstrip(".")


register_rendezvous_handler("imagetok", _rendezvous)
