import warnings
from itertools import chain, islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imagetok.data import loader_workers
from imagetok.data.base import ArrayImages
from imagetok.data.loader_workers import begin
from imagetok.errors import ConfigError, InputError
from imagetok.images import ImageContract
from imagetok.training.batch_order import MicroBatches, batch_loader

SEEDS = st.integers(0, 2**32)


def steps(length: int, batch_size: int, count: int, **options: Any) -> list[list[int]]:
    """The lists of one process, `accumulation` of them a step, for `count` steps."""
    batches = MicroBatches(length, batch_size, **options)
    return [batch.indices for batch in islice(batches, count * options.get("accumulation", 1))]


@given(seed=SEEDS, length=st.integers(1, 40), batch_size=st.integers(1, 50))
def test_the_stream_is_permutations_without_gaps(seed: int, length: int, batch_size: int) -> None:
    count = -(-3 * length // batch_size)
    batches = steps(length, batch_size, count, seed=seed)
    assert all(len(batch) == batch_size for batch in batches)
    stream = list(chain.from_iterable(batches))
    epochs = [stream[i : i + length] for i in range(0, 3 * length, length)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    first, second = steps(100, 100, 2, seed=0)
    (other,) = steps(100, 100, 1, seed=1)
    assert len({tuple(order) for order in (first, second, other, range(100))}) == 4


@given(seed=SEEDS, start=st.integers(0, 60), length=st.integers(1, 40))
def test_starting_at_a_step_equals_skipping_to_it(seed: int, start: int, length: int) -> None:
    options = {"seed": seed, "accumulation": 2, "rank": 1, "num_processes": 2}
    whole = steps(length, 12, start + 4, **options)
    assert steps(length, 12, 4, start_step=start, **options) == whole[2 * start :]


@given(
    seed=SEEDS,
    length=st.integers(1, 40),
    size=st.integers(1, 5),
    accumulation=st.integers(1, 3),
    num_processes=st.integers(1, 3),
)
def test_ranks_and_micro_batches_partition_the_global_batch(
    seed: int, length: int, size: int, accumulation: int, num_processes: int
) -> None:
    batch_size = size * accumulation * num_processes
    ranks = [
        steps(
            length,
            batch_size,
            5,
            seed=seed,
            accumulation=accumulation,
            rank=rank,
            num_processes=num_processes,
        )
        for rank in range(num_processes)
    ]
    parts = [part for together in zip(*ranks, strict=True) for part in together]
    assert all(len(part) == size for part in parts)
    whole = steps(length, batch_size, 5, seed=seed)
    assert list(chain.from_iterable(parts)) == list(chain.from_iterable(whole))


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"train\.batch_size: .* multiple of 4 .*2 processes x 2 .* found 10"
    ):
        MicroBatches(100, 10, seed=0, accumulation=2, num_processes=2)
    with pytest.raises(InputError, match="found an empty training split"):
        MicroBatches(0, 10, seed=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_stream_and_draws_nothing_global(workers: int) -> None:
    contract = ImageContract(mode="grey", height=2, width=2)
    images = torch.arange(4 * 20, dtype=torch.uint8).view(20, 1, 2, 2)
    dataset = ArrayImages(images, name="numbers", split="train", contract=contract)
    before = torch.random.get_rng_state()
    loader = batch_loader(dataset, MicroBatches(20, 6, seed=4), workers, pin_memory=False)
    batches = list(islice(loader, 5))
    assert torch.equal(before, torch.random.get_rng_state())
    assert [batch.indices.tolist() for batch in batches] == steps(20, 6, 5, seed=4)
    assert all(torch.equal(batch.images, images[batch.indices]) for batch in batches)


@given(seed=SEEDS, length=st.integers(1, 40), start=st.integers(0, 9))
def test_the_epoch_of_an_example_is_its_place_in_the_stream(seed, length, start):
    batches = list(islice(MicroBatches(length, 8, seed=seed, start_step=start), 12))
    found = [epoch for batch in batches for epoch in batch.epochs]
    assert found == [place // length for place in range(8 * start, 8 * (start + 12))]
    assert all(len(batch.indices) == len(batch.epochs) for batch in batches)


class Passes:
    """Examples that tell their index and the pass in which they were read."""

    def __len__(self) -> int:
        return 7

    def identity(self) -> str:
        return "passes"

    def read_at(self, indices: list[int], epochs: list[int]) -> torch.Tensor:
        return torch.tensor([indices, epochs])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_that_differs_by_epoch_is_told_the_epochs(workers: int) -> None:
    order = MicroBatches(7, 5, seed=1, start_step=2)
    loader = batch_loader(Passes(), order, workers, pin_memory=False)
    expected = [torch.tensor([batch.indices, batch.epochs]) for batch in islice(order, 6)]
    assert all(torch.equal(a, b) for a, b in zip(loader, expected, strict=False))


@pytest.mark.parametrize("cpus", [1, 2])
def test_more_workers_than_cpus_are_warned_of_once_in_our_words(cpus, monkeypatch, caplog):
    monkeypatch.setattr(loader_workers, "usable_cpus", lambda: cpus)
    monkeypatch.setattr("torch._utils.cpu_count", lambda: cpus)
    image = ImageContract(mode="grey", height=2, width=2)
    pixels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    images = ArrayImages(pixels, name="x", split="train", contract=image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader = batch_loader(images, MicroBatches(4, 2, seed=0), 2, pin_memory=False)
        batches = begin(loader)
        next(batches)
        del batches
    said = [message for message in caplog.messages if "train.workers" in message]
    assert len(said) == (1 if cpus == 1 else 0)
    assert all("found 2" in message and "set train.workers=1" in message for message in said)
