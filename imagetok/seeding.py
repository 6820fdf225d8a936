"""Counted randomness: every generator is a function of the run's seed, a purpose and counters.

Nothing here is state, so nothing has to be saved: step 700 draws the same numbers whether or not
steps 0..699 ran in the same process.
"""

import hashlib
import json

import torch


def derive_seed(seed: int, *parts: str | int) -> int:
    """A 63-bit seed from `seed` and a path of names and counters, e.g. `("noise", step, rank)`.

    Different paths give unrelated seeds (blake2b of their JSON); the value never changes between
    versions, machines or Python's hash seeds.
    """
    text = json.dumps([seed, *parts], separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *parts: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh `torch.Generator` on `device`, seeded by `derive_seed`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *parts))


def reseed_global(seed: int, *parts: str | int) -> None:
    """Seed torch's global generators: the only place that may.

    For what takes no generator: dropout, and the initialisation of modules.
    """
    torch.manual_seed(derive_seed(seed, *parts))
