"""The reader: what is verified and when, how many files are open, what travels to workers."""

import copy
import io
import itertools
import os
import pickle
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from code_samples import make_images, small_plan
from torch.utils.data import DataLoader

from cli.main import _explain
from imagetok.codes import reader
from imagetok.codes.reader import CodeDataset, open_codes
from imagetok.codes.shard_writer import EncodedPart
from imagetok.codes.tar_layout import HEADER_BYTES, block_spans
from imagetok.errors import ConfigError, ShardError

COUNT = 45  # 6 shards of 8 in blocks of 4, the last of 5


@pytest.fixture
def dataset(encode) -> CodeDataset:
    return encode(COUNT)


@pytest.mark.parametrize("size", [0, -3, 1.5, "8", None, True])
@pytest.mark.usefixtures("untyped")
def test_a_batch_size_that_is_no_count_is_refused_at_once(dataset, size):
    for iterate in (dataset.batches, dataset.stream):
        with pytest.raises(ConfigError, match="batch_size: expected a whole number of 1 or more"):
            iterate(size)
    assert len(next(iter(dataset.batches(np.int64(7)))).keys) == 7


def as_is(batch):
    return batch


def damage(folder: Path, shard: int, place: int = HEADER_BYTES) -> None:
    path = folder / f"{shard:05d}.tar"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("shape", [(1, 4, 4), (1024, 32, 32), (10**6,), (3,), (0, 2, 2)])
@pytest.mark.parametrize("num_codes", [2, 300, 70000])
def test_headers_are_those_of_numpy(shape, num_codes, tokenizer):
    plan = small_plan(
        tokenizer, make_images(1), num_codes=(num_codes,), grids=(shape[1:] or (1, 1),)
    )
    for place in block_spans(plan, shape[0]):
        buffer = io.BytesIO()
        form = {"descr": place.dtype.str, "fortran_order": False, "shape": place.shape}
        np.lib.format.write_array_header_1_0(buffer, form)
        assert place.header(0)[512:] == buffer.getvalue()
        assert place.offset % 64 == 0
        assert place.stored_bytes % 512 == 0


def test_what_is_checked_can_be_chosen(encode, monkeypatch):
    folder = encode(COUNT).folder
    damage(folder, 2)
    with pytest.raises(ShardError, match=r"00002\.tar: its sha256 differs"):
        open_codes(folder, verify="full")[17]
    assert open_codes(folder, verify="size")[17].key == 17
    damage(folder, 2)  # as it was
    damage(folder, 3, place=600)
    for verify in ("sampled", "size"):
        with pytest.raises(ShardError, match=r"00003\.tar"):
            open_codes(folder, verify=verify)[24]
    (folder / "00004.tar").write_bytes((folder / "00004.tar").read_bytes()[:-512])
    with pytest.raises(ShardError, match=r"00004\.tar: expected \d+ bytes, found \d+"):
        open_codes(folder, verify="size")[32]


@pytest.mark.usefixtures("untyped")
def test_another_way_of_verifying_is_refused(dataset):
    with pytest.raises(ConfigError, match=r"verify: expected one of .*'sampled'"):
        open_codes(dataset.folder, verify="some")  # pyright: ignore[reportArgumentType]


def test_a_sample_of_the_shards_is_hashed_and_always_the_same(encode):
    folder = encode(40, samples_per_shard=1, samples_per_block=1).folder
    for shard in range(40):
        damage(folder, shard)

    def refused() -> set[int]:
        dataset, found = open_codes(folder, verify="sampled"), set()
        for shard in range(40):
            try:
                dataset[shard]
            except ShardError:
                found.add(shard)
        return found

    assert 0 < len(refused()) < 12
    assert refused() == refused()


def test_a_verdict_of_a_worker_holds_in_every_process(dataset, monkeypatch):
    loader = DataLoader(dataset, batch_size=9, num_workers=2, collate_fn=as_is)
    keys = torch.cat([batch.keys for batch in loader])
    assert keys.tolist() == list(range(COUNT))

    def refuse(*arguments: object) -> None:
        raise AssertionError("it was verified by a worker")

    monkeypatch.setattr(reader, "check_hash", refuse)
    assert [dataset[i].key for i in range(COUNT)] == list(range(COUNT))
    assert copy.copy(dataset)[9].key == 9
    path = dataset.folder / "00001.tar"
    os.utime(path, ns=(1, 1))  # it may have changed
    with pytest.raises(AssertionError, match="verified by a worker"):
        copy.copy(dataset)[9]


def test_a_shard_that_changes_after_its_verdict_is_verified_anew(dataset):
    assert dataset[9].key == 9
    damage(dataset.folder, 1)
    with pytest.raises(ShardError, match=r"00001\.tar: its sha256"):
        copy.copy(dataset)[9]


def open_tars() -> int:
    links = [p.readlink() for p in Path("/proc/self/fd").iterdir() if p.is_symlink()]
    return sum(link.suffix == ".tar" for link in links)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files through /proc")
def test_few_files_are_open_however_many_are_read(dataset, monkeypatch):
    monkeypatch.setattr(reader, "OPEN_SHARDS", 2)
    whole = dataset.__getitems__(range(COUNT))
    del dataset._open, dataset._recent
    few = open_codes(dataset.folder)
    before = open_tars()
    order = random.Random(0).choices(range(COUNT), k=300)
    for i in order:
        sample = few[i]
        assert (sample.key, sample.label) == (i, i % 3)
        assert np.array_equal(sample.codes[0], whole.codes[0][i])
        assert open_tars() - before <= 3  # two, and the one that `sample` views
    batch = few.__getitems__(order)
    assert batch.keys.tolist() == order
    assert torch.equal(batch.codes[0], whole.codes[0][order])
    kept = few[0]
    few.__getitems__(range(COUNT))
    assert np.array_equal(kept.codes[0], whole.codes[0][0])  # though its shard was put away


@contextmanager
def files_left(count: int) -> Iterator[None]:
    """As after `ulimit -n`: the process may open `count` files beside those that it has open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    folder = Path("/proc/self/fd")
    is_open = {path.name for path in list(folder.iterdir()) if path.is_symlink()}
    free = (number for number in itertools.count() if str(number) not in is_open)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, count, None)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files through /proc")
def test_a_low_limit_of_open_files_is_enough(encode, monkeypatch):
    count = 80
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # for time
    folder = encode(count, samples_per_shard=1, samples_per_block=1).folder
    assert len(list(folder.glob("*.tar"))) == count
    order = random.Random(0).choices(range(count), k=3 * count)
    with files_left(40):
        # By the limit itself; by what is left of it, where others took the files meanwhile.
        few = open_codes(folder)
        assert [few[i].key for i in order] == order
        del few  # closes its shards
        many = open_codes(folder)
        many._max_open = 256
        assert [many[i].key for i in order] == order
        assert many._max_open < 40
        assert many.__getitems__(order).keys.tolist() == order
    with files_left(0), pytest.raises(OSError) as told:
        open_codes(folder)
    message, code = _explain(told.value)
    assert code == 5
    assert "ulimit -n" in message


def test_any_list_of_indices_is_gathered_as_it_stands(encode):
    dataset = encode(COUNT, samples_per_shard=11)  # blocks of 4, 4 and 3
    single = [dataset[i] for i in range(COUNT)]
    draw = random.Random(1)
    lists = [[], [44], [3, 3, 5], [7, 6, 5, 4], list(range(5, 30)), [-1, 0, -45, 44], [2, 3, 3, 4]]
    lists += [[draw.randrange(-COUNT, COUNT) for _ in range(draw.randrange(90))] for _ in range(50)]
    for indices in lists:
        batch = dataset.__getitems__(indices)
        assert batch.keys.tolist() == [i % COUNT for i in indices]
        assert batch.labels.tolist() == [single[i].label for i in indices]
        for codes, i in zip(batch.codes[0], indices, strict=True):
            assert np.array_equal(codes, single[i].codes[0])


def test_an_opened_dataset_can_be_pickled(dataset):
    assert dataset[9].key == 9
    again = pickle.loads(pickle.dumps(dataset))
    assert [again[i].key for i in (9, 44)] == [9, 44]
    assert torch.equal(again.__getitems__([9]).codes[0], dataset.__getitems__([9]).codes[0])


def test_opening_reads_no_shard_and_takes_little_memory_whatever_the_size(encode):
    """The figures at 10^7 images are in docs/results."""
    dataset = encode(40, samples_per_shard=1, samples_per_block=1)
    for path in dataset.folder.glob("0*"):
        path.unlink()
    opened = open_codes(dataset.folder)
    assert len(opened) == 40
    assert len(pickle.dumps(opened)) < 40 * 400 + 4000  # the manifest, and a few numbers a shard


def test_the_writer_refuses_parts_of_another_form(tokenizer, tmp_path):
    from imagetok.codes.shard_writer import write_shard

    plan = small_plan(tokenizer, make_images(3))
    part = EncodedPart((np.zeros((3, 4, 5), dtype=int),), np.zeros(3), np.arange(3), [])
    with pytest.raises(AssertionError, match=r"codes\.npy: \(3, 4, 5\), not \(3, 4, 4\)"):
        write_shard(tmp_path, plan, 0, [part])
    assert list(tmp_path.iterdir()) == []
