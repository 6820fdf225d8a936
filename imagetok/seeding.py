"""Counter-based randomness: every generator depends only on a seed, a purpose and counters.

There is no state to save: step 700 draws the same numbers whether or not steps 0..699 ran in the
same process.
"""

import hashlib
import json

import torch


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


def reseed_global(seed: int, *parts: str | int) -> None:
    """Seed torch's global generators; no other function of the package does.

    They are used where torch accepts no generator: by dropout and the initialisation of modules.
    """
    torch.manual_seed(derive_seed(seed, *parts))
