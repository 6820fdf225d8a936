"""What inspect says and shows of a code dataset, and whether verify finds codes that differ."""

import json
import math

import numpy as np
import pytest
import torch
from code_samples import NUM_CODES, Unreadable, make_images, make_tokenizer, small_plan
from PIL import Image

from cli.main import _run
from imagetok.codes.decode import decode_in_batches
from imagetok.codes.encode import encode_dataset
from imagetok.codes.merge import merge_codes
from imagetok.codes.reader import CodeDataset, open_codes
from imagetok.codes.reencode import _micro_batches, reencode
from imagetok.codes.statistics import code_statistics, save_contact_sheet
from imagetok.data import FolderConfig, open_images
from imagetok.data.subset import FirstImages
from imagetok.errors import InputError, ShardError
from imagetok.images import to_uint8


@pytest.fixture
def with_skips(tokenizer, tmp_path) -> CodeDataset:
    images = Unreadable(make_images(21), (0, 8, 20))
    images.images.labels = torch.tensor([i % 4 - 1 for i in range(21)])
    plan = small_plan(tokenizer, images)
    encode_dataset(tokenizer, images, tmp_path / "codes", plan, max_skips=21, threads=1)
    return open_codes(tmp_path / "codes")


def test_counts_are_those_of_the_codes(with_skips):
    found = code_statistics(with_skips)
    codes = with_skips.__getitems__(range(18)).codes[0].numpy()
    p = np.bincount(codes.ravel(), minlength=NUM_CODES) / codes.size
    entropy = -sum(q * math.log2(q) for q in p if q)
    (level,) = found.levels
    assert level.entropy_bits == pytest.approx(entropy)
    assert (level.num_codes, level.grid) == (NUM_CODES, (4, 4))
    assert found.bits_per_image.entropy == pytest.approx(16 * entropy)
    assert found.bits_per_image.fixed == 16 * 4  # 11 codes take 4 bits
    size = sum(path.stat().st_size for path in with_skips.folder.glob("*.tar"))
    assert found.num_bytes == size and found.bits_per_image.stored == pytest.approx(size * 8 / 18)
    assert (found.images, found.skipped, found.num_shards) == (18, {"truncated": 3}, 3)
    kept = [i % 4 - 1 for i in range(21) if i not in (0, 8, 20)]
    expected = {"a": kept.count(0), "b": kept.count(1), "c": kept.count(2), "none": kept.count(-1)}
    assert found.labels == expected


def test_an_empty_and_an_unlabelled_dataset_have_contents(encode):
    empty = code_statistics(encode(0))
    assert (empty.images, empty.levels[0].entropy_bits, empty.bits_per_image.stored) == (0, 0, 0)
    assert code_statistics(encode(5, "bare", labelled=False)).labels == {}


def test_the_contact_sheet_shows_decoded_images_spread_evenly(encode, tokenizer, tmp_path):
    dataset = encode(21)
    assert save_contact_sheet(dataset, tokenizer, tmp_path / "s.png", count=7, columns=4) == 7
    chosen = dataset.__getitems__(range(0, 21, 3)).codes
    pixels = to_uint8(decode_in_batches(tokenizer, chosen)).numpy()
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    assert sheet.shape == (8 * (2 * 10 + 2), 8 * (4 * 10 + 2))  # every pixel is 8 x 8
    for i in range(7):
        top, left = 8 * (2 + i // 4 * 10), 8 * (2 + i % 4 * 10)
        shown = sheet[top : top + 64 : 8, left : left + 64 : 8]
        assert np.array_equal(shown, pixels[i, 0])
    with pytest.raises(ShardError, match="pass the tokenizer that made them"):
        save_contact_sheet(dataset, make_tokenizer(seed=1), tmp_path / "s.png")
    with pytest.raises(InputError, match="expected a dataset with images, found an empty one"):
        save_contact_sheet(encode(0, "empty"), tokenizer, tmp_path / "s.png")


@pytest.mark.parametrize("count", [1, 4, 21, 1000])
@pytest.mark.parametrize("limit", [None, 20])
def test_unchanged_codes_are_found_equal(count, limit, tokenizer, tmp_path):
    source = Unreadable(make_images(21), (0, 8))
    images = source if limit is None else FirstImages(source, limit)
    plan = small_plan(tokenizer, images)
    encode_dataset(tokenizer, images, tmp_path / "codes", plan, max_skips=2, threads=1)
    found = reencode(open_codes(tmp_path / "codes"), tokenizer, source, count)
    assert found.differences == []
    assert min(count, len(images)) - 2 <= found.images <= len(images) - 2


@pytest.mark.parametrize(("inputs", "count"), [(21, 21), (8, 3), (17, 1), (1, 5), (24, 20)])
def test_micro_batches_are_the_encoders(inputs, count, tokenizer):
    plan = small_plan(tokenizer, make_images(inputs))
    every = [
        range(start, min(start + 3, first + 8, inputs))
        for first in range(0, inputs, 8)
        for start in range(first, min(first + 8, inputs), 3)
    ]
    chosen = list(_micro_batches(plan, inputs, count))
    assert len(set(chosen)) == len(chosen) == min(len(every), -(-count * len(every) // inputs))
    assert set(chosen) <= set(every)
    assert list(_micro_batches(plan, inputs, 10**9)) == every


def test_changed_pixels_give_differing_codes(encode, tokenizer):
    dataset, images = encode(21), make_images(21)
    identity = images.identity()
    images.images[13] = 255 - images.images[13]
    images.identity = lambda: identity
    found = reencode(dataset, tokenizer, images, 21)
    (difference,) = found.differences
    assert difference.path == images.path_of(13)
    new = tokenizer.encode(images.images[13:14] / 255)[0]
    wrong = int((new != dataset.__getitems__([13]).codes[0]).sum())
    assert (difference.codes, difference.of) == (wrong, 16) and wrong > 0


def test_other_images_and_tokenizers_are_refused(encode, tokenizer):
    with pytest.raises(ShardError, match="expected --data to be random:train, found other images"):
        reencode(encode(21), tokenizer, make_images(20), 5)
    with pytest.raises(ShardError, match="pass the tokenizer that made them"):
        reencode(encode(21), make_tokenizer(seed=1), make_images(21), 5)


def test_a_part_of_a_merged_dataset_is_encoded_again(encode, tokenizer, tmp_path):
    first, images = encode(21), make_images(10)
    images.images = 255 - images.images
    plan = small_plan(tokenizer, images, source="more")
    encode_dataset(tokenizer, images, tmp_path / "more", plan, threads=1)
    merge_codes([first.folder, tmp_path / "more"], tmp_path / "all")
    merged = open_codes(tmp_path / "all")
    for source, count in ((make_images(21), 21), (images, 10)):
        found = reencode(merged, tokenizer, source, 100)
        assert (found.images, found.differences) == (count, [])


def test_the_commands(tokenizer, tokenizer_folder, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, pixels in enumerate(make_images(21).images):
        Image.fromarray(pixels[0].numpy()).save(photos / f"{i:03d}.bmp")
    images = open_images(FolderConfig(root=str(photos)), "all", tokenizer.image)
    encode_dataset(tokenizer, images, tmp_path / "codes", small_plan(tokenizer, images))
    codes, with_tokenizer = str(tmp_path / "codes"), ["--tokenizer", str(tokenizer_folder)]
    sheet = ["--contact-sheet", str(tmp_path / "sheet.png")]
    assert _run(["inspect", codes, *with_tokenizer, *sheet]) == 0
    said = capsys.readouterr().out
    assert "images: 21\n" in said and "entropy_bits: " in said
    assert Image.open(tmp_path / "sheet.png").mode == "L"
    assert _run(["inspect", codes, "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["levels"][0]["num_codes"] == NUM_CODES
    again = [*with_tokenizer, "--data", str(photos), "--reencode", "21"]
    assert _run(["verify", codes, *again]) == 0
    assert "encoded 21 images again: 0 differ" in capsys.readouterr().out
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(photos / "004.bmp")  # as many bytes
    assert _run(["verify", codes, *again]) == 4
    assert "differs: " in (said := capsys.readouterr().out) and "004.bmp" in said
    assert _run(["verify", codes, "--reencode", "3"]) == 2
    assert _run(["inspect", codes, *sheet]) == 2


def test_a_sheet_that_is_refused_leaves_nothing_printed_or_written(encode, tmp_path, capsys):
    other = make_tokenizer(seed=1)
    other.save_pretrained(tmp_path / "other")
    words = ["inspect", str(encode(5).folder), "--tokenizer", str(tmp_path / "other")]
    assert _run([*words, "--contact-sheet", str(tmp_path / "sheet.png")]) == 3
    said = capsys.readouterr()
    assert said.out == "" and f"--tokenizer is {other.fingerprint[:16]}" in said.err
    assert not (tmp_path / "sheet.png").exists()
