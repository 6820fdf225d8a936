"""Training codes that are read once and kept on the device."""

import logging
from collections.abc import Callable
from typing import Protocol, final, runtime_checkable

import torch

from imagetok.codes.reader import CodeBatch
from imagetok.data.resident import Resident, has_room, is_wanted_on
from imagetok.errors import ConfigError
from imagetok.processes import without_waiting

logger = logging.getLogger("imagetok")
_PIECE = 8192


@runtime_checkable
class Samples(Protocol):
    """Samples of codes, each of which is the same in every epoch."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> CodeBatch: ...

    def identity(self) -> str: ...


@final
class ResidentCodes:
    """Codes on a device, which are gathered there; a batch equals that of their source."""

    def __init__(self, source: Samples, batch: CodeBatch):
        """batch: all samples of the source, in order, on one device; codes of any integer type."""
        self.source = source
        self.all = batch

    def __len__(self) -> int:
        return len(self.source)

    def identity(self) -> str:
        """Return the identity of the source."""
        return self.source.identity()

    def __getitems__(self, indices: list[int]) -> CodeBatch:
        """Return samples as one batch on the device, without waiting for it."""
        rows = without_waiting(torch.tensor(indices), self.all.labels.device)
        levels, labels, keys = self.all
        chosen = tuple(level.index_select(0, rows).long() for level in levels)
        return CodeBatch(chosen, labels.index_select(0, rows), keys.index_select(0, rows))


def make_resident_codes(
    source: Samples,
    device: torch.device,
    resident: Resident,
    check: Callable[[], None] = lambda: None,
) -> ResidentCodes | None:
    """Read all codes to `device`, or return None if they are not to be kept there.

    resident, check: as for `imagetok.data.resident.make_resident`. Codes take 4 bytes each. Raises
    ConfigError where `always` is impossible.
    """
    if not is_wanted_on(device, resident):
        return None
    first = source.__getitems__([0])
    size = 4 * len(source) * sum(level.numel() for level in first.codes)
    if resident == "auto" and not has_room(device, size):
        logger.info("training codes are read as they are needed: they take %d bytes", size)
        return None
    parts: list[CodeBatch] = []
    for start in range(0, len(source), _PIECE):
        check()
        parts.append(source.__getitems__(list(range(start, min(start + _PIECE, len(source))))))
    levels = zip(*(part.codes for part in parts), strict=True)
    try:
        codes = tuple(torch.cat(level).to(device, torch.int32) for level in levels)
    except torch.OutOfMemoryError:
        if resident == "always":
            raise ConfigError(
                f"resident: always: there is no room for {size:,} bytes of codes on {device}; set "
                "resident=auto, which reads them as they are needed"
            ) from None
        return None
    labels = torch.cat([part.labels for part in parts]).to(device)
    keys = torch.cat([part.keys for part in parts]).to(device)
    return ResidentCodes(source, CodeBatch(codes, labels, keys))
