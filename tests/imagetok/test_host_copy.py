"""Results are read one piece of work behind, in order, and none is lost to an error."""

from collections.abc import Iterator

import pytest
import torch

from imagetok.host_copy import HostCopy, Started, one_behind


def works(count: int, log: list[str], fails: bool = False) -> Iterator[Started[int]]:
    for i in range(count):
        log.append(f"started {i}")
        yield Started([torch.tensor(i)], i)
    if fails:
        raise OSError("no more")


def test_each_result_is_read_after_the_next_was_started():
    log: list[str] = []
    for (value,), i in one_behind(works(3, log)):
        assert int(value) == i
        log.append(f"read {i}")
    assert log == ["started 0", "started 1", "read 0", "started 2", "read 1", "read 2"]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_was_started_before_an_error_is_read(count):
    results = one_behind(works(count, [], fails=True))
    for expected in range(count):
        assert next(results)[1] == expected
    with pytest.raises(OSError, match="no more"):
        next(results)


def test_tensors_of_the_cpu_are_not_copied():
    given = [torch.zeros(2), torch.ones(1, dtype=torch.int64)]
    assert all(a is b for a, b in zip(HostCopy(given).tensors(), given, strict=True))
