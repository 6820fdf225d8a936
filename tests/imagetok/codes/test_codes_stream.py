"""Streams over processes, workers and URLs: nothing lost or doubled, the same order again."""

import itertools
import json
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from code_samples import make_images, small_plan
from representative import slow_but
from shard_server import ShardServer
from torch.utils.data import DataLoader

from imagetok.codes import storage
from imagetok.codes.encode import encode_dataset
from imagetok.codes.reader import REMOTE_SHARDS, CodeDataset, open_codes
from imagetok.errors import ConfigError, ResourceError, ShardError

COUNT = 45  # 6 shards of 8 in blocks of 4, the last of 5


@pytest.fixture(scope="module")
def intact(tokenizer, tmp_path_factory) -> Path:
    images, folder = make_images(COUNT), tmp_path_factory.mktemp("intact")
    encode_dataset(tokenizer, images, folder, small_plan(tokenizer, images), threads=1)
    return folder


@pytest.fixture
def dataset(intact, tmp_path) -> CodeDataset:
    """Of a copy, that may be damaged."""
    return open_codes(shutil.copytree(intact, tmp_path / "codes"))


@pytest.fixture
def server(dataset, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(storage, "_RETRY_AFTER", (0, 0, 0))
    with ShardServer(dataset.folder) as running:
        yield running


def in_turn(batches: list[list]) -> list:
    """As a DataLoader asks its workers."""
    rounds = itertools.zip_longest(*batches)
    return [batch for one in rounds for batch in one if batch is not None]


@pytest.fixture
def keys_of(monkeypatch):
    """keys_of(stream, workers): the keys of each batch, by so many workers asked in turn."""

    def run(stream, workers: int = 1) -> list[list[int]]:
        monkeypatch.setenv("NUM_WORKERS", str(workers))
        by_worker = []
        for worker in range(workers):
            monkeypatch.setenv("WORKER", str(worker))
            by_worker.append([batch.keys.tolist() for batch in stream])
        monkeypatch.delenv("NUM_WORKERS")
        monkeypatch.delenv("WORKER")
        return in_turn(by_worker)

    return run


def flat(batches: list[list[int]]) -> list[int]:
    return [key for batch in batches for key in batch]


@pytest.mark.parametrize(
    ("ranks", "workers"), [(1, 1), (1, 2), (1, 3), (1, 50), (2, 3), (3, 2), (7, 1), (50, 2)]
)
def test_processes_and_workers_share_every_sample_once(ranks, workers, dataset, keys_of):
    """Also where there are more of them than shards, or even samples."""
    for size, shuffle in [(4, False), (7, True)]:
        seen, sizes = [], []
        for rank in range(ranks):
            stream = dataset.stream(
                size, shuffle=shuffle, mix=2, rank=rank, num_ranks=ranks, seed=3
            )
            batches = keys_of(stream, workers)
            assert len(batches) == len(stream)
            assert [len(b) for b in batches[:-1]] == [size] * (len(batches) - 1)
            seen += flat(batches)
            sizes.append(len(flat(batches)))
        assert sorted(seen) == list(range(COUNT))
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_whole_batches_are_as_many_for_every_process(ranks, dataset, keys_of):
    for size in (1, 2, 5):
        passes = [
            keys_of(dataset.stream(size, rank=r, num_ranks=ranks, drop_last=True), 2)
            for r in range(ranks)
        ]
        assert {len(batches) for batches in passes} == {COUNT // ranks // size}
        keys = flat(flat(passes))
        assert len(set(keys)) == len(keys)


def test_a_stream_holds_what_random_access_gives(dataset):
    whole = dataset.__getitems__(range(COUNT))
    for batch in dataset.stream(7, shuffle=True, mix=3):
        assert torch.equal(batch.codes[0], whole.codes[0][batch.keys])
        assert torch.equal(batch.labels, whole.labels[batch.keys])
        assert batch.codes[0].dtype == torch.int64


def test_the_order_is_of_seed_and_epoch_and_mixes_neighbouring_shards(dataset, keys_of):
    def order(**options) -> list[int]:
        return flat(keys_of(dataset.stream(5, **options)))

    assert order() == list(range(COUNT))
    assert order(shuffle=True) == order(shuffle=True)
    orders = {tuple(order(shuffle=True, seed=s, epoch=e)) for s in (0, 1) for e in (0, 1)}
    assert len(orders) == 4
    for mix in (1, 2):
        for group in range(0, 5, mix):  # the last shard of the dataset may be any of them
            keys = order(shuffle=True, mix=mix)
            if 40 not in keys[: 8 * (group + mix)]:
                shards = {key // 8 for key in keys[8 * group : 8 * (group + mix)]}
                assert len(shards) == mix
    assert order(shuffle=True, mix=6) != sorted(order(shuffle=True, mix=6))


@pytest.mark.parametrize("workers", slow_but([2], [1, 2, 3]))
def test_a_pass_continues_at_any_sample(workers, dataset, keys_of):
    options = {"shuffle": True, "seed": 1, "epoch": 2, "mix": 2, "rank": 1, "num_ranks": 2}
    whole = flat(keys_of(dataset.stream(4, **options), workers))
    assert len(whole) == 23
    for start in range(len(whole) + 2):
        stream = dataset.stream(4, start=start, **options)
        rest = keys_of(stream, workers)
        assert flat(rest) == whole[start:]
        assert len(rest) == len(stream)
    for start in range(COUNT + 1):
        for options in ({}, {"shuffle": True, "seed": 1, "epoch": 2}):
            whole = torch.cat([b.keys for b in dataset.batches(4, **options)]).tolist()
            rest = [b.keys.tolist() for b in dataset.batches(4, start=start, **options)]
            assert flat(rest) == whole[start:]


def test_a_data_loader_gives_the_workers_batches_in_turn(dataset, server, keys_of):
    for source in (dataset, open_codes(server.url)):
        stream = source.stream(4, shuffle=True, seed=5, mix=2)
        loader = DataLoader(stream, batch_size=None, num_workers=2)
        assert [batch.keys.tolist() for batch in loader] == keys_of(stream, 2)
        assert len(loader) == len(stream)


@pytest.mark.slow
def test_two_processes_with_two_workers_stream_a_url(dataset, server, start_python):
    code = (
        "import json, sys; from torch.utils.data import DataLoader; import imagetok\n"
        "stream = imagetok.open_codes(sys.argv[1]).stream(4, shuffle=True)\n"
        "loader = DataLoader(stream, batch_size=None, num_workers=2)\n"
        "print(json.dumps([key for batch in loader for key in batch.keys.tolist()]))"
    )
    processes = [
        start_python("-c", code, server.url, env={"RANK": str(rank), "WORLD_SIZE": "2"})
        for rank in range(2)
    ]
    keys = []
    for process in processes:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        keys += json.loads(out)
    assert sorted(keys) == list(range(COUNT))


@pytest.mark.parametrize(
    "options", [{"rank": 2, "num_ranks": 2}, {"mix": 0}, {"start": -1}, {"batch_size": 0}]
)
def test_impossible_streams_are_refused(options, dataset):
    with pytest.raises(ConfigError, match="expected"):
        dataset.stream(**{"batch_size": 4, **options})


def test_a_url_reads_as_the_folder_does(dataset, server):
    remote = open_codes(server.url + "/")
    assert (len(remote), remote.fingerprint) == (COUNT, dataset.fingerprint)
    assert set(server.requests) == {"plan.json", "manifest.json"}  # no shard at opening
    whole, expected = remote.__getitems__(range(COUNT)), dataset.__getitems__(range(COUNT))
    assert torch.equal(whole.codes[0], expected.codes[0])
    assert torch.equal(whole.labels, expected.labels)
    assert np.array_equal(remote[17].codes[0], dataset[17].codes[0])
    assert torch.equal(torch.cat([b.keys for b in remote.batches(4)]), expected.keys)
    with pytest.raises(ShardError, match=r"expected a local folder, found a remote dataset"):
        _ = remote.folder


def test_a_pass_fetches_each_shard_once_and_holds_few(server):
    remote = open_codes(server.url)
    for stream in (remote.batches(4), iter(remote.stream(4, shuffle=True, mix=2))):
        server.requests.clear()
        assert len(list(stream)) == -(-COUNT // 4)
        assert {n: c for n, c in server.requests.items() if n.endswith(".tar")} == {
            f"{shard:05d}.tar": 1 for shard in range(6)
        }
    assert len(remote._open) == REMOTE_SHARDS
    with pytest.raises(ConfigError, match=r"6 remote shards.*stream\(shuffle=True\)"):
        next(remote.batches(4, shuffle=True))


def test_passing_faults_of_the_network_are_waited_out(server):
    server.faults = {"plan.json": [503, "cut"], "00002.tar": ["cut", 429, 500]}
    remote = open_codes(server.url)
    assert remote[17].key == 17
    assert server.requests["00002.tar"] == 4


@pytest.mark.parametrize(
    ("fault", "tries", "error", "text"),
    [
        (503, 4, ResourceError, "00002.tar: cannot be downloaded: 503"),
        ("cut", 4, ResourceError, r"00002\.tar: cannot be downloaded: the connection ended after"),
        (403, 1, ResourceError, "00002.tar: cannot be downloaded: 403"),
        (404, 1, ShardError, "00002.tar: missing"),
    ],
)
def test_lasting_faults_of_the_network_are_told(fault, tries, error, text, server):
    remote = open_codes(server.url)
    server.faults = {"00002.tar": [fault] * 10}
    with pytest.raises(error, match=text):
        remote[17]
    assert server.requests["00002.tar"] == tries


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "other"])
def test_a_damaged_remote_shard_is_refused_by_name(damage, dataset, server):
    path = dataset.folder / "00002.tar"
    data = path.read_bytes()
    flipped = bytes([data[700] ^ 1])
    path.write_bytes(
        {
            "flip": data[:700] + flipped + data[701:],
            "cut": data[:-512],
            "longer": data + bytes(512),
            "other": (dataset.folder / "00001.tar").read_bytes(),
        }[damage]
    )
    remote = open_codes(server.url)
    stream = iter(remote.stream(8))
    assert [next(stream).keys[0] for _ in range(2)] == [0, 8]
    with pytest.raises(ShardError, match=rf"{server.url}/00002\.tar: (its sha256|expected)"):
        next(stream)
    path.write_bytes(data)
    assert remote[17].key == 17  # a remote shard is fetched, and checked, anew
    path.write_bytes(data[:700] + flipped + data[701:])
    remote.__getitems__([0, 9, 25, 33, 41])  # more than are held
    assert remote[9].key == 9
    with pytest.raises(ShardError, match=r"00002\.tar"):
        remote[17]


def test_an_unfinished_upload_is_refused(dataset, server):
    (dataset.folder / "manifest.json").unlink()
    with pytest.raises(ShardError, match=r"manifest\.json: missing; .* uploaded unfinished"):
        open_codes(server.url)


def test_a_signature_in_a_url_is_sent_and_never_shown(server):
    remote = open_codes(f"{server.url}?signature=secret")
    assert remote[0].key == 0
    assert set(server.queries) == {"signature=secret"}
    server.faults = {"00005.tar": [404]}
    with pytest.raises(ShardError) as refused:
        remote[44]
    assert "secret" not in str(refused.value) + remote.place


def test_other_object_stores_are_read_through_fsspec(dataset):
    memory = fsspec.filesystem("memory")
    memory.put(str(dataset.folder), "/bucket/codes", recursive=True)
    try:
        remote = open_codes("memory://bucket/codes")
        assert torch.equal(remote.__getitems__(range(COUNT)).keys, torch.arange(COUNT))
        memory.rm("/bucket/codes/00003.tar")
        with pytest.raises(ShardError, match=r"memory://bucket/codes/00003\.tar: missing"):
            list(remote.stream(4))
    finally:
        memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("url", ["pipe://cat", "file:///etc", "ftp://host/x", "exec://x"])
def test_other_protocols_are_refused(url):
    with pytest.raises(ConfigError, match=r"expected a folder or a URL with .* http"):
        open_codes(url)
