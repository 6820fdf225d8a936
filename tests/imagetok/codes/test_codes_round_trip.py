"""Images to shards and back: the same codes, labels and keys by every way of reading."""

import numpy as np
import pytest
import torch
from code_samples import BLOCK, NUM_CODES, SHARD, make_images, make_tokenizer, small_plan
from PIL import Image
from torch.testing import assert_close
from torch.utils.data import DataLoader

from imagetok.codes.decode import decode_dataset, decode_in_batches
from imagetok.codes.encode import encode_dataset
from imagetok.codes.reader import open_codes
from imagetok.codes.schema import TokenizerId
from imagetok.codes.verify import verify_codes
from imagetok.errors import ConfigError, ShardError
from imagetok.images import to_uint8, to_unit_range


@pytest.mark.parametrize("kind", ["vqvae-ema", "dvae", "edvae"])
def test_decoding_the_shards_equals_decoding_the_codes_of_the_images(kind, tmp_path):
    tokenizer, images = make_tokenizer(kind), make_images(21)
    report = encode_dataset(tokenizer, images, tmp_path, small_plan(tokenizer, images))
    codes = tokenizer.encode(to_unit_range(images.images))
    assert codes[0].unique().numel() > 3  # else there is little to compare
    batch = open_codes(tmp_path).__getitems__(range(21))
    assert torch.equal(batch.codes[0], codes[0])
    assert torch.equal(tokenizer.decode(batch.codes), tokenizer.decode(codes))
    assert (report.inputs, report.written, report.skipped, report.num_shards) == (21, 21, 0, 3)


@pytest.mark.parametrize("labelled", [True, False])
def test_all_ways_of_reading_agree(labelled, encode, tokenizer):
    dataset = encode(21, labelled=labelled)
    whole = dataset.__getitems__(range(21))
    labels = [i % 3 if labelled else -1 for i in range(21)]
    assert whole.labels.tolist() == labels
    assert whole.keys.tolist() == list(range(21))
    for i, sample in enumerate([dataset[i] for i in range(21)]):
        assert sample.codes[0].dtype == np.uint8
        assert np.array_equal(sample.codes[0], whole.codes[0][i])
        assert (sample.label, sample.key) == (labels[i], i)
    parts = list(dataset.batches(5))
    assert [len(p.keys) for p in parts] == [5, 5, 5, 5, 1]
    assert [len(p.keys) for p in dataset.batches(5, drop_last=True)] == [5] * 4
    for joined, expected in [
        (torch.cat([p.codes[0] for p in parts]), whole.codes[0]),
        (torch.cat([p.labels for p in parts]), whole.labels),
        (torch.cat([p.keys for p in parts]), whole.keys),
    ]:
        assert joined.dtype == torch.int64
        assert torch.equal(joined, expected)
    assert dataset.num_classes == (3 if labelled else None)
    assert (dataset.num_codes, dataset.grids) == ((NUM_CODES,), ((4, 4),))
    assert dataset.fingerprint == tokenizer.fingerprint


def test_indices_count_from_the_end_too_and_end_at_the_end(encode):
    dataset = encode(21)
    assert dataset[-1].key == 20
    assert dataset.__getitems__([-1, -21]).keys.tolist() == [20, 0]
    for index in (21, -22):
        with pytest.raises(IndexError):
            dataset[index]
        with pytest.raises(IndexError):
            dataset.__getitems__([index])


def test_a_shuffled_pass_is_a_permutation_by_seed_and_epoch(encode):
    dataset = encode(21)
    whole = dataset.__getitems__(range(21))

    def order(seed: int, epoch: int) -> list[int]:
        parts = list(dataset.batches(4, shuffle=True, seed=seed, epoch=epoch))
        for part in parts:
            assert torch.equal(part.codes[0], whole.codes[0][part.keys])
            assert torch.equal(part.labels, whole.labels[part.keys])
        return torch.cat([p.keys for p in parts]).tolist()

    assert sorted(order(0, 0)) == list(range(21))
    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


SIZES = sorted(
    {size for n in (BLOCK, SHARD) for size in (1, n - 1, n, n + 1, 2 * n + 1)},
)


@pytest.mark.parametrize("count", SIZES)
def test_every_size_around_a_block_or_shard_boundary_round_trips(count, encode, tokenizer):
    dataset = encode(count)
    codes = tokenizer.encode(to_unit_range(make_images(count).images))
    batch = dataset.__getitems__(range(count))
    assert torch.equal(batch.codes[0], codes[0])
    assert batch.keys.tolist() == list(range(count))
    assert len(dataset) == count
    assert len(dataset.manifest.shards) == -(-count // SHARD)
    assert verify_codes(dataset.folder) == []


def test_no_images_make_an_empty_dataset(encode):
    dataset = encode(0)
    assert len(dataset) == 0
    assert list(dataset.batches(4)) == []
    assert verify_codes(dataset.folder) == []


def test_usage_is_that_of_the_codes(encode):
    dataset = encode(21)
    counts = np.bincount(dataset.__getitems__(range(21)).codes[0].ravel(), minlength=NUM_CODES)
    p = counts[counts > 0] / counts.sum()
    (use,) = dataset.manifest.usage
    assert use.codes_used == len(p)
    assert_close(use.perplexity, float(np.exp(-(p * np.log(p)).sum())))


def test_a_data_loader_reads_it_with_and_without_workers(encode):
    dataset = encode(21)
    whole = dataset.__getitems__(range(21))  # also: an opened dataset travels to workers
    for workers in (0, 1):
        loader = DataLoader(
            dataset, batch_size=5, num_workers=workers, collate_fn=lambda batch: batch
        )
        batches = list(loader)
        assert torch.equal(torch.cat([b.codes[0] for b in batches]), whole.codes[0])
        assert torch.equal(torch.cat([b.keys for b in batches]), whole.keys)


def test_an_image_decodes_the_same_however_many_are_decoded_with_it(encode, tokenizer):
    codes = encode(70).__getitems__(range(70)).codes
    images = decode_in_batches(tokenizer, codes)
    assert images.shape == (70, 1, 8, 8)
    for count in (0, 1, 63, 64, 65):
        few = decode_in_batches(tokenizer, tuple(level[:count] for level in codes))
        assert torch.equal(few, images[:count])
    assert_close(images, tokenizer.decode(codes))


def test_decoded_pictures_are_named_by_source_index(encode, tokenizer, tmp_path):
    dataset = encode(9)
    assert decode_dataset(tokenizer, dataset, tmp_path / "png", limit=7) == (7, 7)
    names = sorted(p.name for p in (tmp_path / "png").glob("*.png"))
    assert names == [f"{i:06d}.png" for i in range(7)]
    pixels = to_uint8(decode_in_batches(tokenizer, dataset.__getitems__(range(7)).codes))
    for i in range(7):
        picture = np.asarray(Image.open(tmp_path / "png" / f"{i:06d}.png"))
        assert np.array_equal(picture.reshape(8, 8, -1)[..., 0], pixels[i, 0].numpy())


def test_decoding_that_met_a_damaged_shard_goes_on_once_it_is_mended(encode, tokenizer, tmp_path):
    count, folder = 70, tmp_path / "png"
    shard = encode(count).folder / "00008.tar"
    good = shard.read_bytes()
    shard.write_bytes(good[:700] + bytes([good[700] ^ 4]) + good[701:])
    with pytest.raises(ShardError, match=r"00008\.tar: its sha256 differs"):
        decode_dataset(tokenizer, open_codes(shard.parent), folder)
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*.png")}
    assert 0 < len(before) < count
    shard.write_bytes(good)
    dataset = open_codes(shard.parent)
    assert decode_dataset(tokenizer, dataset, folder) == (count, count - len(before))
    assert all(p.stat().st_mtime_ns == then for p, then in before.items())
    decode_dataset(tokenizer, dataset, tmp_path / "whole")
    whole = {p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()}
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == whole


def test_images_of_other_codes_and_files_of_others_are_not_mixed_with(encode, tokenizer, tmp_path):
    decode_dataset(tokenizer, encode(3), tmp_path / "png")
    with pytest.raises(ConfigError, match="holds a different set of decoded images:\n  codes: "):
        decode_dataset(tokenizer, encode(4, "more"), tmp_path / "png")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "000000.png").touch()
    with pytest.raises(ConfigError, match="an empty folder or a set of decoded images"):
        decode_dataset(tokenizer, encode(3), tmp_path / "own")


def test_codes_of_another_tokenizer_are_not_decoded(encode, tmp_path):
    other, dataset = make_tokenizer(seed=1), encode(3)
    with pytest.raises(ShardError, match=other.fingerprint[:16]):
        decode_dataset(other, dataset, tmp_path / "png")
    assert not (tmp_path / "png").exists()


def test_the_name_of_the_tokenizer_is_only_for_people(encode, tokenizer, tmp_path):
    encode(5)
    images = make_images(5)
    renamed = TokenizerId(fingerprint=tokenizer.fingerprint, name="moved/elsewhere")
    plan = small_plan(tokenizer, images).model_copy(update={"tokenizer": renamed})
    assert encode_dataset(tokenizer, images, tmp_path / "codes", plan).written == 5
