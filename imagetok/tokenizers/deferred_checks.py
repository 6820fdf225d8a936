"""Checks of encoder outputs, which wait for the device unless they are put off."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import final

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from imagetok.errors import NotFiniteError
from imagetok.images import ImageContract, Images, check_images, from_stored
from imagetok.processes import without_waiting
from imagetok.suggestions import counted


@final
class DeferredChecks:
    """What was found instead of being refused; see `deferred_checks`."""

    def __init__(self) -> None:
        self._finite: list[Tensor] = []

    def note(self, h: Float[Tensor, "B C H W"]) -> None:
        """Note which images have finite encoder outputs, on the device."""
        self._finite.append(h.isfinite().flatten(1).all(dim=1))

    def finite(self, count: int, device: torch.device) -> Bool[Tensor, " B"]:
        """Return whether everything noted of each of `count` images is finite, on the device."""
        found = torch.ones(count, dtype=torch.bool, device=device)
        for one in self._finite:
            found = found & one
        return found


_deferred: ContextVar[DeferredChecks | None] = ContextVar("deferred", default=None)


@contextmanager
def deferred_checks() -> Iterator[DeferredChecks]:
    """Put off checks of one batch of images or codes, inside the context and in this thread.

    `Tokenizer.encode`, `decode` and `reconstruct` look at pixels, codes and encoder outputs, and
    wait for the device to do so. Inside the context the values of pixels and codes are not checked:
    they are converted from uint8, or were checked before. Encoder outputs are noted: read `finite`
    and call `refuse_unless_finite` when their codes are on the CPU, before they are used.
    """
    noted = DeferredChecks()
    token = _deferred.set(noted)
    try:
        yield noted
    finally:
        _deferred.reset(token)


def stored_on(
    device: torch.device, stored: UInt8[Tensor, "B C H W"], contract: ImageContract
) -> Images:
    """Convert stored pixels on the CPU to a tokenizer's input on a device, without waiting for it.

    Raises InputError for label maps with a class that the contract does not have.
    """
    if contract.num_classes is not None:
        check_images(from_stored(stored, contract), contract)
    return from_stored(without_waiting(stored, device), contract)


def are_deferred() -> bool:
    """Return whether values are checked later, or were checked before."""
    return _deferred.get() is not None


def check_features(h: Float[Tensor, "B C H W"]) -> None:
    """Raise NotFiniteError if encoder outputs are not finite: their codes would be arbitrary.

    The message names the first affected image. This waits for the device, so it is not used in
    training steps, where the loss shows the problem; inside `deferred_checks` it notes the outputs.
    """
    noted = _deferred.get()
    if noted is not None:
        noted.note(h)
    elif not bool(h.isfinite().all()):
        refuse_unless_finite(h.isfinite().flatten(1).all(dim=1), h.dtype)


def refuse_unless_finite(finite: Bool[Tensor, " B"], precision: object = "float32") -> None:
    """Raise NotFiniteError unless the encoder outputs of all images of a batch are finite.

    precision: the arithmetic that they were computed in, for the message.
    """
    bad = (~finite).nonzero().flatten().tolist()
    if not bad:
        return
    raise NotFiniteError(
        f"the encoder's output is NaN or infinite for {len(bad)} of the batch's "
        f"{counted(len(finite), 'image')}, first for image {bad[0]}; its weights have diverged, or "
        f"overflow in {precision}: encode in float32, or train again with a lower "
        "train.learning_rate or with train.clip_norm=1.0"
    )
