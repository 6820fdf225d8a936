"""`prior.evaluate` is the log-likelihood of stored codes; it changes and selects nothing."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import imagetok
import prior
from cli.main import _run
from imagetok.errors import ConfigError, ShardError

CLASSES = ("a", "b", "c")


def encode(tokenizer: Path, folder: Path, count: int, classes: tuple[str, ...] = CLASSES) -> Path:
    """Codes of random pictures, which have these classes in turn."""
    pixels = np.random.default_rng(count).integers(0, 256, (count, 6, 6), dtype=np.uint8)
    if classes:
        pictures = [(image, i % len(classes)) for i, image in enumerate(pixels)]
        imagetok.encode(tokenizer, pictures, folder, class_names=classes, progress=False)
    else:
        imagetok.encode(tokenizer, pixels, folder, progress=False)
    return folder


def test_bits_are_those_of_log_prob(bound, tokenizer_folder, tmp_path):
    codes = imagetok.open_codes(encode(tokenizer_folder, tmp_path / "codes", 21))
    record = tmp_path / "bits.json"
    found = prior.evaluate(bound, codes, out=record, progress=False)
    batch = codes.__getitems__(list(range(21)))
    bits = -float(bound.log_prob(batch.codes, batch.labels).sum()) / math.log(2)
    assert_close(found.measures["bits_per_code"], bits / (21 * 9))
    assert_close(found.measures["bits_per_image"], bits / 21)
    assert found.measures["num_images"] == 21 == found.record["identity"]["count"]
    assert json.loads(record.read_bytes()) == found.record
    again = prior.evaluate(bound, codes, beside=record, progress=False)
    assert again.table()["bits_per_code"] == dict.fromkeys(
        ["this", str(record)], found.measures["bits_per_code"]
    )
    assert torch.is_grad_enabled()


def test_other_codes_are_not_comparable(bound, tokenizer_folder, tmp_path):
    for count in (5, 6):
        encode(tokenizer_folder, tmp_path / f"codes-{count}", count)
    prior.evaluate(bound, tmp_path / "codes-5", out=tmp_path / "five.json", progress=False)
    with pytest.raises(ConfigError, match=r"not comparable.* count: 6, 5"):
        prior.evaluate(bound, tmp_path / "codes-6", beside=tmp_path / "five.json")


def test_codes_of_another_grid_are_refused_with_both_grids(bound, tokenizer_folder, tmp_path):
    pixels = np.zeros((2, 8, 8), np.uint8)
    imagetok.encode(tokenizer_folder, pixels, tmp_path / "codes", size=(8, 10), progress=False)
    with pytest.raises(ShardError, match="codes of 3 x 3, the grid of this prior, found 4 x 5"):
        prior.evaluate(bound, tmp_path / "codes", progress=False)


def test_codes_that_are_not_the_priors_are_refused(
    bound, tokenizer_folder, other_tokenizer_folder, tmp_path
):
    encode(other_tokenizer_folder, tmp_path / "other", 5)
    with pytest.raises(ShardError, match="this prior's tokenizer"):
        prior.evaluate(bound, tmp_path / "other")
    encode(tokenizer_folder, tmp_path / "classes", 5, ("a", "b", "d"))
    with pytest.raises(ShardError, match=r"3 \(a, b, c\), found 3 \(a, b, d\), of which d is not"):
        prior.evaluate(bound, tmp_path / "classes")
    encode(tokenizer_folder, tmp_path / "unlabelled", 5, ())
    assert prior.evaluate(bound, tmp_path / "unlabelled").measures["num_images"] == 5
    bound.config = bound.config.model_copy(update={"label_dropout": 0.0})
    with pytest.raises(ShardError, match="found none"):
        prior.evaluate(bound, tmp_path / "unlabelled")


def test_labels_are_matched_by_name(bound, tokenizer_folder, tmp_path):
    encode(tokenizer_folder, tmp_path / "codes", 21)
    encode(tokenizer_folder, tmp_path / "turned", 21, ("c", "a", "b"))
    codes = imagetok.open_codes(tmp_path / "turned")
    found = prior.evaluate(bound, codes, progress=False)
    batch = codes[:]
    by_name = torch.tensor([CLASSES.index(codes.plan.class_names[n]) for n in batch.labels])
    bits = -float(bound.log_prob(batch.codes, by_name).sum()) / math.log(2) / (21 * 9)
    assert_close(found.measures["bits_per_code"], bits)
    encode(tokenizer_folder, tmp_path / "two", 20, ("c", "b"))
    assert prior.evaluate(bound, tmp_path / "two").measures["num_images"] == 20


def test_the_command_measures_images_or_a_prior(bound, tokenizer_folder, tmp_path, capsys):
    bound.save_pretrained(tmp_path / "prior", tokenizer_folder)
    shards = encode(tokenizer_folder, tmp_path / "codes", 5)
    words = ["evaluate", "--device", "cpu", "--prior", str(tmp_path / "prior")]
    assert _run([*words, "--shards", str(shards)]) == 0
    assert "bits_per_code" in capsys.readouterr().out
    for more, told in [
        ([], "Missing option '--shards'"),
        (["--shards", str(shards), "--data", "digits:test"], "--data: cannot be combined"),
    ]:
        assert _run([*words, *more]) == 2
        assert told in capsys.readouterr().err
    assert _run(["evaluate", "--data", "digits:test"]) == 2
    assert "Missing option '--tokenizer'" in capsys.readouterr().err
