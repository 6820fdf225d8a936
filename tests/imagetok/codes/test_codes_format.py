"""What lies in the shards: plain tars of npy files, aligned, small, and readable by anyone."""

import io
import tarfile

import numpy as np
import pytest
import torch
import webdataset as wds
from code_samples import BLOCK, make_images, small_plan
from torch.testing import assert_close

from imagetok.codes.encode import encode_dataset
from imagetok.codes.reader import open_codes
from imagetok.codes.schema import PLAN, CodePlan, ShardRecord, Skip, read_json, smallest_dtype
from imagetok.codes.shard_writer import EncodedPart, write_shard
from imagetok.codes.verify import verify_codes
from imagetok.durable import write_json
from imagetok.errors import ConfigError


@pytest.mark.parametrize(
    ("num_codes", "dtype"),
    [
        (1, "|u1"),
        (255, "|u1"),
        (256, "|u1"),
        (257, "<u2"),
        (65535, "<u2"),
        (65536, "<u2"),
        (65537, "<u4"),
        (2**32, "<u4"),
    ],
)
def test_codes_take_the_smallest_type_that_holds_them(num_codes, dtype):
    assert smallest_dtype(num_codes).str == dtype
    assert np.iinfo(smallest_dtype(num_codes)).max >= num_codes - 1


def test_more_codes_than_32_bits_are_refused():
    with pytest.raises(ConfigError, match=r"expected at most 2\*\*32, found 4294967297"):
        smallest_dtype(2**32 + 1)


def parts_of(plan: CodePlan, shard: int, size: int = 3) -> list[EncodedPart]:
    """Random codes for the inputs of a shard, the largest code of each level among them."""
    inputs = plan.input_range(shard)
    random = np.random.default_rng(shard)
    parts = []
    for start in range(inputs.start, inputs.stop, size):
        keys = np.arange(start, min(start + size, inputs.stop))
        codes = [
            random.integers(0, k, (len(keys), *grid))
            for k, grid in zip(plan.num_codes, plan.grids, strict=True)
        ]
        for level, k in zip(codes, plan.num_codes, strict=True):
            level[0, 0, :2] = 0, k - 1
        parts.append(EncodedPart(tuple(codes), keys % 3, keys, []))
    return parts


def written(folder, tokenizer, **changes) -> tuple[CodePlan, list[EncodedPart]]:
    """A dataset whose codes are given, not encoded."""
    images = make_images(13)
    plan = small_plan(tokenizer, images, **changes)
    write_json(folder / PLAN, plan.model_dump(mode="json"))
    parts = []
    for shard in range(plan.num_shards):
        parts += parts_of(plan, shard)
        write_shard(folder, plan, shard, parts_of(plan, shard))
    encode_dataset(tokenizer, images, folder, plan)  # finds every shard complete
    return plan, parts


@pytest.mark.parametrize("num_codes", [255, 256, 257, 65535, 65536, 65537])
def test_the_largest_code_survives_in_every_type(num_codes, tokenizer, tmp_path):
    _, parts = written(tmp_path, tokenizer, num_codes=(num_codes,))
    dataset = open_codes(tmp_path)
    expected = np.concatenate([part.codes[0] for part in parts])
    assert dataset[0].codes[0].dtype == smallest_dtype(num_codes)
    assert np.array_equal(dataset.__getitems__(range(13)).codes[0], expected)
    assert verify_codes(tmp_path) == []


def test_codes_of_two_levels_round_trip(tokenizer, tmp_path):
    num_codes, grids = (300, 7), ((2, 3), (4, 5))
    _, parts = written(tmp_path, tokenizer, num_codes=num_codes, grids=grids)
    dataset = open_codes(tmp_path)
    batch = dataset.__getitems__(range(13))
    for level, dtype in enumerate(["<u2", "|u1"]):
        expected = np.concatenate([part.codes[level] for part in parts])
        assert np.array_equal(batch.codes[level], expected)
        assert dataset[12].codes[level].dtype.str == dtype
        assert np.array_equal(dataset[12].codes[level], expected[12])
        counts = np.bincount(expected.ravel(), minlength=num_codes[level])
        p = counts[counts > 0] / counts.sum()
        use = dataset.manifest.usage[level]
        assert (use.num_codes, use.codes_used) == (num_codes[level], len(p))
        assert_close(use.perplexity, float(np.exp(-(p * np.log(p)).sum())))
    with tarfile.open(tmp_path / "00000.tar") as tar:
        assert tar.getnames()[:4] == [
            f"000000.{name}.npy" for name in ("codes0", "codes1", "labels", "index")
        ]
    assert verify_codes(tmp_path) == []


def test_codes_out_of_range_are_never_written(tokenizer, tmp_path):
    plan = small_plan(tokenizer, make_images(3), num_codes=(5,))
    codes = np.full((3, 4, 4), 5)
    with pytest.raises(AssertionError, match="out of range"):
        write_shard(tmp_path, plan, 0, [EncodedPart((codes,), np.zeros(3), np.arange(3), [])])
    assert list(tmp_path.iterdir()) == []


def test_skips_between_parts_do_not_move_blocks(tokenizer, tmp_path):
    plan = small_plan(tokenizer, make_images(8))
    skips = [Skip(index=i, path=f"{i}.png", reason="truncated") for i in range(8)]
    sample = np.ones((1, 4, 4), dtype=np.int64)
    none = EncodedPart((sample[:0],), np.zeros(0), np.zeros(0), skips[:3])
    parts = [none] + [EncodedPart((sample,), np.full(1, i), np.full(1, i), []) for i in range(3, 8)]
    record = write_shard(tmp_path, plan, 0, parts)
    assert record == read_json(tmp_path / "00000.json", ShardRecord)
    assert (record.samples, record.skipped) == (5, tuple(skips[:3]))
    assert [block["index.npy"].shape for block in record.blocks] == [(BLOCK,), (1,)]


def test_a_shard_is_a_plain_ustar_whose_data_is_aligned(encode):
    dataset = encode(21)
    for shard in range(3):
        path = dataset.folder / f"{shard:05d}.tar"
        data = path.read_bytes()
        record = read_json(path.with_suffix(".json"), ShardRecord)
        with tarfile.open(path, format=tarfile.USTAR_FORMAT) as tar:
            members = tar.getmembers()
            names = [f"{b:06d}.{s}" for b, block in enumerate(record.blocks) for s in sorted(block)]
            assert sorted(tar.getnames()) == sorted(names)
            for info in members:
                header = data[info.offset : info.offset + 512]
                assert header[257:265] == b"ustar\x0000"
                assert info.isreg()
                assert info.offset_data == info.offset + 512  # no extended header between
                assert (info.mtime, info.uid, info.gid, info.mode) == (0, 0, 0, 0o644)
                assert (info.uname, info.gname, info.pax_headers) == ("", "", {})
                file = tar.extractfile(info).read()
                assert file[:8] == b"\x93NUMPY\x01\x00"
                array = np.load(io.BytesIO(file), allow_pickle=False)
                number, suffix = info.name.split(".", 1)
                member = record.blocks[int(number)][suffix]
                assert member.offset % 64 == 0
                direct = np.frombuffer(data, member.dtype, array.size, member.offset)
                assert array.dtype.str == member.dtype
                assert np.array_equal(direct.reshape(member.shape), array)
        assert data[-1024:] == bytes(1024)


def test_reading_a_sample_copies_nothing(encode):
    dataset = encode(5)
    first, second = dataset[0].codes[0], dataset[1].codes[0]
    assert not first.flags.owndata and not first.flags.writeable
    assert first.base is second.base


def test_unlabelled_shards_have_no_labels_member(encode):
    dataset = encode(3, labelled=False)
    with tarfile.open(dataset.folder / "00000.tar") as tar:
        assert tar.getnames() == ["000000.codes.npy", "000000.index.npy"]


def test_plain_webdataset_reads_the_same(encode):
    dataset = encode(21)
    urls = sorted(str(p) for p in dataset.folder.glob("*.tar"))
    samples = (
        wds.WebDataset(urls, shardshuffle=False, select_files=lambda name: name.endswith(".npy"))
        .decode()
        .to_tuple("codes.npy", "labels.npy")
        .unbatched()
    )
    codes, labels = zip(*samples, strict=True)
    whole = dataset.__getitems__(range(21))
    assert np.array_equal(np.stack(codes), whole.codes[0])
    assert list(labels) == whole.labels.tolist()


def test_plain_numpy_and_torch_read_the_same(encode):
    dataset = encode(21)
    blocks = []
    for path in sorted(dataset.folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            arrays = {m.name: np.load(io.BytesIO(tar.extractfile(m).read())) for m in tar}
        for name in sorted(name for name in arrays if name.endswith(".codes.npy")):
            labels = arrays[name.replace("codes", "labels")]
            blocks.append((torch.from_numpy(arrays[name]), torch.from_numpy(labels)))
    codes, labels = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    whole = dataset.__getitems__(range(21))
    assert torch.equal(codes.long(), whole.codes[0])
    assert torch.equal(labels.long(), whole.labels)
