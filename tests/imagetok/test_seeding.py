import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imagetok import seeding
from imagetok.processes import usable_devices

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


DRAWS = {
    "normals": lambda count, draw: torch.randn(count, generator=draw),
    "normals in float64": lambda count, draw: torch.randn(
        count, generator=draw, dtype=torch.float64
    ),
    "uniforms": lambda count, draw: torch.rand(count, generator=draw),
    "exponentials": lambda count, draw: torch.empty(count).exponential_(generator=draw),
    "integers": lambda count, draw: torch.randint(7, (count,), generator=draw),
    "an order": lambda count, draw: torch.randperm(count, generator=draw),
}


@pytest.mark.parametrize("before", DRAWS)
@pytest.mark.parametrize("count", [1, 3, 16, 17])  # an odd number of normals leaves one over
def test_a_reseeded_generator_draws_what_a_new_one_draws(before: str, count: int) -> None:
    reseeded = seeding.ReseededGenerator(3, "noise")
    for counters in [(), (0,), (7, 0, 1), (0,)]:
        for draw in DRAWS.values():
            DRAWS[before](count, reseeded.at(9))
            found = draw(5, reseeded.at(*counters))
            assert torch.equal(found, draw(5, seeding.generator(3, "noise", *counters)))
        new = seeding.generator(3, "noise", *counters)
        assert torch.equal(reseeded.at(*counters).get_state(), new.get_state())


def test_a_reseeded_generator_is_one_object_on_its_device() -> None:
    for device in usable_devices():
        reseeded = seeding.ReseededGenerator(3, "noise", device)
        assert reseeded.at(1) is reseeded.at(2)
        assert reseeded.at(1).device == seeding.generator(3, device=device).device
        torch.randn(3, generator=reseeded.at(1), device=device)
        new = seeding.generator(3, "noise", 2, device=device)
        found = torch.randn(5, generator=reseeded.at(2), device=device)
        assert torch.equal(found, torch.randn(5, generator=new, device=device))


@pytest.mark.parametrize("drawn", [0, 1])
def test_reseeding_leaves_the_global_generators_as_torch_does(drawn: int) -> None:
    def drawn_everywhere() -> list[list[float]]:
        return [torch.randn(5, device=device).tolist() for device in usable_devices()]

    torch.manual_seed(seeding.derive_seed(3, "dropout", 1))
    expected = torch.get_rng_state(), torch.initial_seed(), drawn_everywhere()
    torch.randn(drawn)
    seeding.reseed_global(3, "dropout", 1)
    state = torch.get_rng_state()
    assert torch.equal(state, expected[0])
    assert (torch.initial_seed(), drawn_everywhere()) == expected[1:]


COUNTER = st.integers(0, 2**63)


@given(seed=st.integers(0, 2**32), pairs=st.lists(st.tuples(COUNTER, COUNTER), max_size=4))
def test_uniforms_are_numpys_with_the_counter_set_to_the_pair(seed, pairs):
    found = seeding.uniforms(seed, "augmentation", pairs, 31)
    key = seeding.derive_seed(seed, "augmentation")
    assert found.shape == (len(pairs), 31)
    for row, (index, epoch) in zip(found, pairs, strict=True):
        philox = np.random.Philox(key=key, counter=[0, index, epoch, 0])
        assert np.array_equal(row, np.random.Generator(philox).random(31))
