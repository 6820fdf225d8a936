"""Shards of a tokenizer with two grids: what it encodes is what they hold and what is decoded."""

import json
import tarfile

import numpy as np
import pytest
import torch
from code_samples import make_images, small_plan
from hierarchical_samples import build_mixed

from imagetok.codes.decode import decode_dataset, decode_in_batches
from imagetok.codes.encode import encode_dataset
from imagetok.codes.reader import open_codes
from imagetok.codes.verify import verify_codes
from imagetok.errors import ShardError
from imagetok.images import to_unit_range
from imagetok.tokenizers import Tokenizer

COUNT = 21


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Grey 8x8 images to 1x1 codes of 300 above 2x2 codes of 9."""
    tree = {
        "image": {"mode": "grey", "height": 8, "width": 8},
        "network": {"kind": "vqvae2", "width": 8, "residual_width": 4},
        "quantizers": [
            {"kind": "vqvae-ema", "num_codes": 300, "code_dim": 4},
            {"kind": "vqvae-ema", "num_codes": 9, "code_dim": 4},
        ],
    }
    pixels = to_unit_range(make_images(COUNT).images)
    return build_mixed(tree, pixels).requires_grad_(False).eval()


@pytest.fixture
def folder(tokenizer, tmp_path):
    images = make_images(COUNT)
    encode_dataset(tokenizer, images, tmp_path / "codes", small_plan(tokenizer, images), threads=1)
    return tmp_path / "codes"


def test_both_levels_come_back(tokenizer, folder):
    expected = tokenizer.encode(to_unit_range(make_images(COUNT).images))
    dataset = open_codes(folder)
    assert (dataset.num_codes, dataset.grids) == ((300, 9), ((1, 1), (2, 2)))
    batch = dataset.__getitems__(range(COUNT))
    for level, codes in enumerate(batch.codes):
        assert torch.equal(codes, expected[level])
        assert len(codes.unique()) > 1
        assert dataset.manifest.usage[level].codes_used == len(codes.unique())
    assert [c.dtype for c in dataset[0].codes] == [np.uint16, np.uint8]
    with tarfile.open(folder / "00000.tar") as tar:
        names = tar.getnames()[:4]
    assert names == [f"000000.{n}.npy" for n in ("codes0", "codes1", "labels", "index")]


def test_decoding_the_shards_is_decoding_the_codes(tokenizer, folder, tmp_path):
    dataset = open_codes(folder)
    codes = dataset.__getitems__(range(COUNT)).codes
    assert torch.equal(decode_in_batches(tokenizer, codes), tokenizer.decode(codes))
    assert decode_dataset(tokenizer, dataset, tmp_path / "out", limit=5) == (5, 5)
    assert len(list((tmp_path / "out").glob("*.png"))) == 5


def test_damage_at_either_level_is_found(folder):
    assert verify_codes(folder) == []
    record = json.loads((folder / "00001.json").read_text())
    path = folder / "00001.tar"
    content = path.read_bytes()
    for suffix in ("codes0.npy", "codes1.npy"):
        damaged = bytearray(content)
        damaged[record["blocks"][0][suffix]["offset"]] ^= 1
        path.write_bytes(damaged)
        assert len(verify_codes(folder)) == 1
        with pytest.raises(ShardError, match=r"00001\.tar: its sha256 differs"):
            open_codes(folder).__getitems__(range(COUNT))
