"""Codes that a tokenizer shares with those whose decoder alone was trained again."""

import json
from pathlib import Path

import pytest
import torch
from code_samples import make_images, make_tokenizer, small_plan
from relatives import with_new_decoder
from test_codes_merge import shifted

from imagetok.codes.decode import decode_dataset, decode_in_batches
from imagetok.codes.encode import encode_dataset
from imagetok.codes.interchange.export import export_codes
from imagetok.codes.interchange.import_ import import_rows
from imagetok.codes.merge import merge_codes
from imagetok.codes.reader import open_codes
from imagetok.codes.reencode import reencode
from imagetok.codes.statistics import save_contact_sheet
from imagetok.durable import sha256_file
from imagetok.errors import ConfigError, ShardError
from imagetok.tokenizers import Tokenizer


@pytest.fixture
def child(tokenizer_folder, tmp_path) -> Tokenizer:
    return with_new_decoder(tokenizer_folder, tmp_path / "child")


@pytest.fixture
def stranger(tmp_path) -> Tokenizer:
    """A child of another tokenizer of the same architecture."""
    make_tokenizer(seed=1).save_pretrained(tmp_path / "other")
    return with_new_decoder(tmp_path / "other", tmp_path / "stranger")


def tree(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.iterdir()}


def test_both_encode_to_the_same_bytes_and_may_continue_each_other(tokenizer, child, tmp_path):
    images = make_images(21)
    for folder, models in {"old": [tokenizer], "new": [child], "both": [tokenizer, child]}.items():
        for model in models:
            encode_dataset(model, images, tmp_path / folder, small_plan(model, images), threads=1)
    assert tree(tmp_path / "old") == tree(tmp_path / "new") == tree(tmp_path / "both")
    assert open_codes(tmp_path / "new").fingerprint == tokenizer.fingerprint


def test_old_codes_are_decoded_by_the_new_decoder(encode, tokenizer, child, tmp_path):
    dataset = encode(9)
    codes = dataset[range(9)].codes
    torch.testing.assert_close(decode_in_batches(child, codes), child.decode(codes))
    assert not torch.equal(child.decode(codes), tokenizer.decode(codes))
    assert save_contact_sheet(dataset, child, tmp_path / "sheet.png") == 9
    assert reencode(dataset, child, make_images(9), 9).differences == []


def test_a_folder_of_pictures_is_of_one_decoder(encode, tokenizer, child, tmp_path):
    dataset = encode(9)
    for model, other in ((tokenizer, child), (child, tokenizer)):
        folder = tmp_path / model.fingerprint
        assert decode_dataset(model, dataset, folder, 4).num_new == 4
        assert decode_dataset(model, dataset, folder).num_new == 5
        with pytest.raises(ConfigError, match="decoder"):
            decode_dataset(other, dataset, folder)
    record = tmp_path / tokenizer.fingerprint / "decoded.json"
    assert json.loads(record.read_text()) == {"codes": dataset.manifest.root}


def test_codes_of_another_tokenizer_are_refused(encode, stranger, tmp_path):
    dataset = encode(9)
    with pytest.raises(ShardError, match="belongs to tokenizer"):
        save_contact_sheet(dataset, stranger, tmp_path / "sheet.png")
    with pytest.raises(ShardError, match="belongs to tokenizer"):
        reencode(dataset, stranger, make_images(9), 9)


def test_codes_of_both_are_merged(tokenizer, child, stranger, tmp_path):
    for number, model in enumerate([tokenizer, child, stranger]):
        images = shifted(10, number)
        plan = small_plan(model, images, source=f"source {number}")
        encode_dataset(model, images, tmp_path / str(number), plan, threads=1)
    merge_codes([tmp_path / "0", tmp_path / "1"], tmp_path / "all")
    assert len(open_codes(tmp_path / "all")) == 20
    with pytest.raises(ShardError, match="belongs to tokenizer"):
        merge_codes([tmp_path / "0", tmp_path / "2"], tmp_path / "mixed")


def test_exported_codes_are_imported_for_both(encode, tokenizer, child, stranger, tmp_path):
    export_codes(encode(9), tmp_path / "out", "npy")
    for name, model in {"old": tokenizer, "new": child}.items():
        import_rows(tmp_path / "out", model, tmp_path / name, name="tiny")
    assert tree(tmp_path / "old") == tree(tmp_path / "new") == tree(tmp_path / "codes")
    with pytest.raises(ShardError, match="belongs to tokenizer"):
        import_rows(tmp_path / "out", stranger, tmp_path / "none", name="tiny")
