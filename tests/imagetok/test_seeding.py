import hashlib

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from imagetok import seeding

PARTS = st.lists(st.integers(0, 10**9) | st.text(), max_size=4)


@given(seed=st.integers(0, 2**63 - 1))
def test_a_seed_is_the_hash_of_its_path(seed: int) -> None:
    digest = hashlib.blake2b(f'[{seed},"noise",7,0]'.encode(), digest_size=8).digest()
    assert seeding.derive_seed(seed, "noise", 7, 0) == int.from_bytes(digest, "little") >> 1


@given(a=PARTS, b=PARTS)
def test_different_paths_give_different_seeds(a: list[str | int], b: list[str | int]) -> None:
    found = seeding.derive_seed(0, *a), seeding.derive_seed(0, *b)
    assert all(0 <= seed < 2**63 for seed in found)
    assert (found[0] == found[1]) == (a == b)


def test_paths_do_not_run_together() -> None:
    paths: list[tuple[str | int, ...]] = [(), (0,), ("0",), ("a", "bc"), ("ab", "c"), ("a,bc",)]
    paths += [(1, 23), (12, 3), (0, 0), ("",)]
    assert len({seeding.derive_seed(0, *path) for path in paths}) == len(paths)


def test_a_generator_repeats_and_touches_no_global_state() -> None:
    before = torch.random.get_rng_state()
    first = torch.rand(5, generator=seeding.generator(3, "noise", 1))
    again = torch.rand(5, generator=seeding.generator(3, "noise", 1))
    other = torch.rand(5, generator=seeding.generator(3, "noise", 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_global_generator_gets_the_same_numbers() -> None:
    seeding.reseed_global(3, "noise", 1)
    assert torch.equal(torch.rand(5), torch.rand(5, generator=seeding.generator(3, "noise", 1)))


COUNTER = st.integers(0, 2**63)


@given(seed=st.integers(0, 2**32), pairs=st.lists(st.tuples(COUNTER, COUNTER), max_size=4))
def test_uniforms_are_numpys_with_the_counter_set_to_the_pair(seed, pairs):
    found = seeding.uniforms(seed, "augmentation", pairs, 31)
    key = seeding.derive_seed(seed, "augmentation")
    assert found.shape == (len(pairs), 31)
    for row, (index, epoch) in zip(found, pairs, strict=True):
        philox = np.random.Philox(key=key, counter=[0, index, epoch, 0])
        assert np.array_equal(row, np.random.Generator(philox).random(31))
