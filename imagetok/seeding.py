"""Counter-based randomness: every generator depends only on a seed, a purpose and counters.

There is no state to save: step 700 draws the same numbers whether or not steps 0..699 ran in the
same process.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np
import torch
from jaxtyping import Float64

_ENCODER = json.JSONEncoder(separators=(",", ":"))


def derive_seed(seed: int, *parts: str | int) -> int:
    """Return a 63-bit seed for `seed` and a path of names and counters, `("noise", step, rank)`.

    Different paths give unrelated seeds (blake2b of their JSON); the value never changes between
    versions, machines or Python's hash seeds.
    """
    text = _ENCODER.encode([seed, *parts])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *parts: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new `torch.Generator` on `device`, seeded with `derive_seed(seed, *parts)`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *parts))


class ReseededGenerator:
    """One generator for all steps, seeded again at each of them; it draws what a new one would.

    Making a generator costs time, and a CUDA graph can only hold one that stays the same object.
    """

    def __init__(self, seed: int, purpose: str, device: torch.device | str = "cpu"):
        self._path = seed, purpose
        self._generator = torch.Generator(device)

    def at(self, *counters: int) -> torch.Generator:
        """Return the generator, which draws as `generator(seed, purpose, *counters)` does.

        It is the same object each time, so what was returned before starts anew with it.
        """
        return self._generator.manual_seed(derive_seed(*self._path, *counters))


def uniforms(
    seed: int, purpose: str, counters: Iterable[tuple[int, int]], count: int
) -> Float64[np.ndarray, "N count"]:
    """Return `count` numbers in [0, 1) for each pair of counters, such as (index, epoch).

    A row depends only on the seed, the purpose and its pair. The generator is numpy's Philox, whose
    counter is set to the pair; its bits never change between versions or machines.
    """
    generator = np.random.Philox(key=derive_seed(seed, purpose))
    state = generator.state  # written again for each pair: a new generator takes 16 times as long
    rows = []
    for first, second in counters:
        state["state"]["counter"][:] = (0, first, second, 0)
        generator.state = state
        rows.append(generator.random_raw(count))
    bits = np.array(rows, dtype=np.uint64).reshape(-1, count)
    return (bits >> np.uint64(11)) * 2.0**-53


def reseed_global(seed: int, *parts: str | int) -> None:
    """Seed torch's global generators, on all devices; no other function of the package does.

    They are used where torch accepts no generator: by dropout and the initialisation of modules.
    Equal to `torch.manual_seed`, which however formats a stack trace at every call for each kind of
    device that the machine does not have.
    """
    value = derive_seed(seed, *parts)
    torch.default_generator.manual_seed(value)
    _seed_accelerators()(value)


@cache
def _seed_accelerators() -> Callable[[int], object]:
    """Return the function that seeds the global generators of all GPUs, which are of one kind."""
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        return lambda value: None
    module = torch.get_device_module(device)
    return getattr(module, "manual_seed_all", module.manual_seed)  # MPS has one device
