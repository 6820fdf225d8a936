"""Merging: what it joins, what source indices mean after it, and what it refuses."""

import errno
import os
from pathlib import Path

import pytest
import torch
from code_samples import SHARD, Unreadable, make_images, make_tokenizer, small_plan

from cli.main import _run
from imagetok.codes.encode import encode_dataset
from imagetok.codes.merge import merge_codes
from imagetok.codes.reader import open_codes
from imagetok.codes.schema import CodePlan
from imagetok.codes.verify import verify_codes
from imagetok.data.base import ArrayImages
from imagetok.data.subset import FirstImages
from imagetok.durable import sha256_file
from imagetok.errors import ConfigError, ShardError


def shifted(count: int, by: int, labelled: bool = True) -> ArrayImages:
    """Other images for each `by`."""
    images = make_images(count, labelled)
    images.images = images.images + torch.tensor(by, dtype=torch.uint8)
    return images


@pytest.fixture
def folders(tokenizer, tmp_path) -> list[Path]:
    """Datasets of 21, 8, 0 and 10 inputs, of which some of the first could not be read."""
    made = []
    for number, count in enumerate([21, SHARD, 0, 10]):
        images = Unreadable(shifted(count, number), (0, 9, 20) if number == 0 else ())
        plan = small_plan(tokenizer, images, source=f"source {number}")
        folder = tmp_path / f"part{number}"
        encode_dataset(tokenizer, images, folder, plan, max_skips=3, threads=1)
        made.append(folder)
    return made


def tree(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.iterdir()}


def test_all_samples_are_there_in_order_with_indices_through_the_sources(folders, tmp_path):
    parts = [open_codes(folder) for folder in folders]
    report = merge_codes(folders, tmp_path / "all")
    assert (report.inputs, report.written, report.skipped) == (39, 36, 3)
    merged = open_codes(tmp_path / "all")
    whole = merged.__getitems__(range(36))
    expected = [part.__getitems__(range(len(part))) for part in parts]
    offsets = [0, 21, 29, 29]
    assert torch.equal(whole.codes[0], torch.cat([e.codes[0] for e in expected]))
    assert torch.equal(whole.labels, torch.cat([e.labels for e in expected]))
    keys = [e.keys + offset for e, offset in zip(expected, offsets, strict=True)]
    assert torch.equal(whole.keys, torch.cat(keys))
    assert whole.keys.tolist() == [i for i in range(39) if i not in (0, 9, 20)]
    assert [merged[i].key for i in range(36)] == whole.keys.tolist()
    assert [skip.index for skip in report.skips] == [0, 9, 20]
    assert verify_codes(tmp_path / "all") == []
    used = torch.cat([e.codes[0] for e in expected]).unique().numel()
    assert merged.manifest.usage[0].codes_used == used


def test_shards_are_links_and_what_is_joined_stays_as_it_was(folders, tmp_path):
    before = [tree(folder) for folder in folders]
    merge_codes(folders, tmp_path / "all")
    assert (tmp_path / "all" / "00003.tar").samefile(folders[1] / "00000.tar")
    assert [tree(folder) for folder in folders] == before


def test_merging_in_steps_is_merging_at_once(folders, tmp_path):
    merge_codes(folders, tmp_path / "all")
    merge_codes(folders[:2], tmp_path / "first")
    merge_codes([tmp_path / "first", *folders[2:]], tmp_path / "steps")
    assert tree(tmp_path / "steps") == tree(tmp_path / "all")


@pytest.mark.parametrize("left", [[], ["00000.tar"], ["00000.tar", "00000.json", "00001.tar"]])
def test_a_stopped_merge_continues(left, folders, tmp_path):
    merge_codes(folders, tmp_path / "all")
    before = tree(tmp_path / "all")
    for path in (tmp_path / "all").iterdir():
        if path.name not in ["plan.json", *left]:
            path.unlink()
    merge_codes(folders, tmp_path / "all")
    assert tree(tmp_path / "all") == before


def test_where_links_are_not_possible_shards_are_copied(folders, tmp_path, monkeypatch):
    merge_codes(folders, tmp_path / "all")

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)
    merge_codes(folders, tmp_path / "copies")
    assert tree(tmp_path / "copies") == tree(tmp_path / "all")
    assert not (tmp_path / "copies" / "00003.tar").samefile(folders[1] / "00000.tar")


def test_what_differs_is_named(folders, tokenizer, tmp_path, capsys):
    other = make_tokenizer(seed=1)
    own, foreign = (t.fingerprint[:16] for t in (tokenizer, other))
    blocks, bf16 = {"samples_per_block": 2}, {"precision": "bfloat16"}
    shards, names = blocks | {"samples_per_shard": 2}, {"class_names": ("a", "c", "b")}
    for name, model, images, changes, field in [
        (
            "other",
            other,
            shifted(5, 7),
            {},
            rf"belongs to tokenizer {foreign} .* is {own}; ",
        ),
        ("bare", tokenizer, shifted(5, 7, False), {}, r"labels \(--data\): .* True, found False"),
        ("shards", tokenizer, shifted(5, 7), shards, r"\(--samples-per-shard\): .* 8, found 2\n"),
        ("blocks", tokenizer, shifted(5, 7), blocks, "images per block .*: expected 4, found 2"),
        ("bf16", tokenizer, shifted(5, 7), bf16, r"\(--precision\): expected 'float32', found 'bf"),
        (
            "names",
            tokenizer,
            shifted(5, 7),
            names,
            r"classes \(--data\): expected 3 \(a, b, c\), found 3 \(a, c, b\)\n",
        ),
    ]:
        plan = small_plan(model, images, **changes)
        encode_dataset(model, images, tmp_path / name, plan, threads=1)
        with pytest.raises(ShardError, match=field) as caught:
            merge_codes([*folders, tmp_path / name], tmp_path / "all")
        assert str(tmp_path / name) in str(caught.value) and "source" not in str(caught.value)
        assert not any(
            field in str(caught.value) for field in CodePlan.model_fields if "_" in field
        )
    assert not (tmp_path / "all").exists()
    assert _run(["merge", str(folders[0]), str(tmp_path / "other"), "--out", "all"]) == 3
    assert "error: " in capsys.readouterr().err


def test_images_that_two_datasets_share_are_refused(folders, tokenizer, tmp_path):
    few = FirstImages(shifted(SHARD, 1), 5)
    encode_dataset(tokenizer, few, tmp_path / "few", small_plan(tokenizer, few, source="few"))
    merge_codes(folders[:2], tmp_path / "first")
    for same in (folders[1], tmp_path / "few", tmp_path / "first"):
        with pytest.raises(ShardError, match="both hold images of"):
            merge_codes([*folders, same], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_damaged_and_unfinished_datasets_are_refused(folders, tmp_path):
    with (folders[1] / "00000.tar").open("r+b") as file:
        file.seek(600)
        file.write(b"?")
    with pytest.raises(ShardError, match=r"part1/00000\.tar: its sha256 differs"):
        merge_codes(folders, tmp_path / "all")
    assert not (tmp_path / "all" / "manifest.json").exists()
    (folders[3] / "manifest.json").unlink()
    with pytest.raises(ShardError, match="part3: unfinished"):
        merge_codes(folders, tmp_path / "all")


def test_another_dataset_in_the_way_is_refused(folders, tmp_path):
    with pytest.raises(ConfigError, match="holds a different code dataset"):
        merge_codes(folders[:2], folders[3])


def test_parts_that_do_not_add_up_are_refused(folders, tmp_path):
    merge_codes(folders, tmp_path / "all")
    plan = tmp_path / "all" / "plan.json"
    plan.write_text(plan.read_text().replace('"num_inputs": 39', '"num_inputs": 38'))
    with pytest.raises(ShardError, match=r"parts: .* differs from num_inputs"):
        open_codes(tmp_path / "all")


def test_the_command_says_what_it_joined(folders, tmp_path, capsys):
    out = str(tmp_path / "all")
    assert _run(["merge", *map(str, folders), "--out", out]) == 0
    assert capsys.readouterr().out.endswith("inputs 39 == written 36 + skipped 3\n")
