"""Counter-based randomness: every generator depends only on a seed, a purpose and counters.

There is no state to save: step 700 draws the same numbers whether or not steps 0..699 ran in the
same process.
"""

import hashlib
import json
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float64


def derive_seed(seed: int, *parts: str | int) -> int:
    """Return a 63-bit seed for `seed` and a path of names and counters, `("noise", step, rank)`.

    Different paths give unrelated seeds (blake2b of their JSON); the value never changes between
    versions, machines or Python's hash seeds.
    """
    text = json.dumps([seed, *parts], separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *parts: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new `torch.Generator` on `device`, seeded with `derive_seed(seed, *parts)`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *parts))


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
    """Seed torch's global generators; no other function of the package does.

    They are used where torch accepts no generator: by dropout and the initialisation of modules.
    """
    torch.manual_seed(derive_seed(seed, *parts))
