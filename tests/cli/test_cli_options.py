"""How measures are printed, and arguments that are refused whatever the command."""

import os
from pathlib import Path

import pytest

from cli.main import _run
from cli.options import show_columns, show_measures
from imagetok.evaluation.meanings import meaning_of
from imagetok.training.metrics_log import read_json_lines


def test_one_column_shows_the_rows_that_have_it(capsys):
    show_columns({"neighbour-1": {"mse": 0.5}, "interpolation": {}})
    assert capsys.readouterr().out == "  neighbour-1  0.5\n"


def test_several_columns_leave_places_free(capsys):
    show_columns({"a": {"mse": 0.5, "fd": 2}, "between": {"fd": 30}})
    assert capsys.readouterr().out.splitlines() == [
        "           mse  fd",
        "  a        0.5   2",
        "  between       30",
    ]


def test_measures_of_a_run_are_explained_in_one_line_each(capsys):
    show_measures({"bits_per_pixel": 20.5, "codes_used_level1": 3, "of_mine": 1})
    assert capsys.readouterr().out.splitlines() == [
        "  bits_per_pixel     20.5  bits per image, divided by height x width of the image; "
        "lower is better",
        "  codes_used_level1  3     codes that occur in the split",
        "  of_mine            1",
    ]


def test_every_measure_that_a_run_writes_is_explained():
    runs = sorted((Path(__file__).parent.parent / "stored" / "runs").glob("*/metrics.jsonl"))
    names = {
        name
        for path in runs
        for record in read_json_lines(path)
        if record["split"] == "test"
        for name in record
    }
    assert {"psnr_db", "bits_per_code_level1", "uncertainty"} <= names
    assert [name for name in names - {"step", "split"} if not meaning_of(name)] == []


@pytest.mark.parametrize("words", [["train", "{}"], ["inspect", "{}"], ["encode", "--data", "{}"]])
def test_a_path_that_is_not_utf8_is_refused_before_any_work(words, tmp_path, capsys):
    """Records, pages and plans, which hold paths, are UTF-8."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    Path(path).mkdir()
    assert _run([word.format(path) for word in words]) == 2
    said = capsys.readouterr().err
    assert "caf\\udce9: expected text in UTF-8" in said and said.count("\n") == 1


def test_a_dry_run_without_codes_shows_what_is_known_then_what_is_missing(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert _run(["train", "digits/gpt", "--dry-run", "--device", "cpu"]) == 3
    out, err = capsys.readouterr()
    for fact in ("4 x 4 of 64", "parameters", "1,000 of 32 images", "measured on noise"):
        assert fact in out
    for missing in ("tokenizer: no such folder", "codes/train", "codes/test"):
        assert f"runs/digits-edvae/{missing}" in err
    assert not list(tmp_path.iterdir())
