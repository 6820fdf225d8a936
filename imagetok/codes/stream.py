"""One pass over a code dataset, split over data-parallel processes and loader workers.

webdataset hands out whole shards: of three shards on two processes, one process gets twice as many
samples, and a worker without a shard is an error. Here each gets an equal run of the samples, so
that none waits at the end. Rank and worker are found with webdataset's function.
"""

from collections.abc import Callable, Iterator
from typing import final

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import IterableDataset

from imagetok import seeding
from imagetok.arguments import checked_count
from imagetok.codes.shard import CodeBatch
from imagetok.errors import ConfigError


@final
class CodeStream(IterableDataset):
    """Batches for this rank and worker, in an order that depends only on seed, epoch and these.

    Shards are read in groups of `mix`. Shuffling permutes the shards, then the samples within each
    group. Each rank gets an equal run of the samples, and each of its workers an equal run of its
    batches, so every sample occurs exactly once and the ranks' numbers of samples differ by at most
    one. A DataLoader takes batches from its workers in turn.

    batch_size: samples per batch. start: number of samples of this rank to skip; it continues an
    interrupted pass with the same batch size, workers and ranks. mix: shards per group, and the
    most shards open at once in each worker. drop_last: leave out smaller batches, so that all ranks
    get the same number of batches. rank, num_ranks: default to those of torch.distributed, or to
    the environment variables RANK and WORLD_SIZE. Raises ConfigError for values out of range.
    """

    def __init__(
        self,
        take: Callable[[Int64[np.ndarray, " n"]], CodeBatch],
        ends: Int64[np.ndarray, " shards"],
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        epoch: int,
        start: int,
        mix: int,
        drop_last: bool,
        rank: int | None,
        num_ranks: int | None,
    ):
        batch_size, mix = checked_count("batch_size", batch_size), checked_count("mix", mix)
        start = checked_count("start", start, least=0)
        own_rank, own_num_ranks, _, _ = _rank_and_worker()
        num_ranks = own_num_ranks if num_ranks is None else num_ranks
        rank = own_rank if rank is None else rank
        if not 0 <= rank < num_ranks:
            raise ConfigError(
                f"stream: expected 0 <= rank < num_ranks; found {rank=}, {num_ranks=}"
            )
        self._take = take
        self._batch_size = batch_size
        self._start = start
        self._order = _Order(ends, shuffle, seed, epoch, mix)
        total = self._order.num_samples
        self._first, end = rank * total // num_ranks, (rank + 1) * total // num_ranks
        if drop_last:
            end = self._first + total // num_ranks // batch_size * batch_size
        self._end = end

    def __len__(self) -> int:
        """Number of batches that are left for this rank."""
        samples = self._end - self._first
        if self._start >= samples:
            return 0
        return -(-samples // self._batch_size) - self._start // self._batch_size

    def __iter__(self) -> Iterator[CodeBatch]:
        _, _, worker, num_workers = _rank_and_worker()
        order = self._order.reader()
        # The worker that the loader reads first starts within a batch.
        taken = self._start % self._batch_size if worker == 0 else 0
        for number in self._batch_numbers(worker, num_workers):
            first = self._first + number * self._batch_size
            end = min(first + self._batch_size, self._end)
            parts = [self._take(part) for part in order(first + taken, end)]
            taken = 0
            if parts:
                yield parts[0] if len(parts) == 1 else _joined(parts)

    def _batch_numbers(self, worker: int, num_workers: int) -> range:
        """Return the numbers of this rank's batches that a worker yields.

        A DataLoader reads from workers 0, 1, ... in turn until they are exhausted: batch j of the
        pass is the (j // num_workers)-th of worker j % num_workers. Each worker has a run of
        consecutive batches; the worker read last has the last run, which ends with the batch that
        may be smaller.
        """
        done = self._start // self._batch_size
        asked = (worker + done) % num_workers  # the number of this worker in the whole pass
        total = -(-(self._end - self._first) // self._batch_size)
        each, more = divmod(total, num_workers)  # the first `more` workers have one batch more
        if asked < more:
            begin, count = (num_workers - more) * each + asked * (each + 1), each + 1
        else:
            begin, count = (asked - more) * each, each
        taken = max(0, -(-(done - asked) // num_workers))
        return range(begin + min(taken, count), begin + count)


class _Order:
    """The order of an epoch: maps positions to sample indices, one group of shards at a time."""

    def __init__(
        self, ends: Int64[np.ndarray, " shards"], shuffle: bool, seed: int, epoch: int, mix: int
    ):
        self._shuffle, self._seed, self._epoch, self._mix = shuffle, seed, epoch, mix
        shards = np.arange(len(ends))
        if shuffle:
            draw = seeding.generator(seed, "stream", epoch)
            shards = torch.randperm(len(ends), generator=draw).numpy()
        self._first_of = np.concatenate([[0], ends[:-1]])[shards]
        self._end_of = ends[shards]
        last_of_groups = [min(g + mix, len(ends)) - 1 for g in range(0, len(ends), mix)]
        sizes = np.cumsum(self._end_of - self._first_of, dtype=np.int64)
        self._group_ends = sizes[last_of_groups]
        self.num_samples = int(ends[-1]) if len(ends) else 0

    def reader(self) -> Callable[[int, int], Iterator[np.ndarray]]:
        """Return a function of (first, end) that yields the indices at these positions by group.

        The function keeps the order of the group that it used last.
        """
        current, start, order = -1, 0, np.empty(0, dtype=np.int64)

        def read(first: int, end: int) -> Iterator[np.ndarray]:
            nonlocal current, start, order
            while first < end:
                group = int(np.searchsorted(self._group_ends, first, side="right"))
                if group != current:
                    current, order = group, self._indices(group)
                    start = int(self._group_ends[group - 1]) if group else 0
                stop = min(end, int(self._group_ends[group]))
                yield order[first - start : stop - start]
                first = stop

        return read

    def _indices(self, group: int) -> Int64[np.ndarray, " n"]:
        """Return the sample indices of one group in their order."""
        part = slice(group * self._mix, (group + 1) * self._mix)
        runs = zip(self._first_of[part], self._end_of[part], strict=True)
        indices = np.concatenate([np.arange(first, end) for first, end in runs])
        if self._shuffle:
            draw = seeding.generator(self._seed, "stream", self._epoch, group)
            indices = indices[torch.randperm(len(indices), generator=draw).numpy()]
        return indices


def _rank_and_worker() -> tuple[int, int, int, int]:
    """Return rank, number of ranks, loader worker and number of workers."""
    from webdataset.utils import pytorch_worker_info  # imported here because it takes 0.1 s

    return pytorch_worker_info()


def _joined(parts: list[CodeBatch]) -> CodeBatch:
    return CodeBatch(
        tuple(torch.cat(levels) for levels in zip(*(p.codes for p in parts), strict=True)),
        torch.cat([p.labels for p in parts]),
        torch.cat([p.keys for p in parts]),
    )
