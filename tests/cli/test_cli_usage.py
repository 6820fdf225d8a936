"""A wrong call of a command says which argument is meant, and shows a right one."""

import os
import shlex
import subprocess
import sys

import pytest

from cli.main import _run

CALLS = [
    ("diagnose runs/a", "expected an option's name before 'runs/a', and --tokenizer is missing"),
    ("sample runs/a/prior", "and --prior is missing; for example: imagetok sample --prior"),
    ("sample runs/a/prior --out x", "and --prior is missing"),
    ("complete runs/a/prior", "and --prior is missing"),
    ("encode runs/a/tokenizer digits", "before 'runs/a/tokenizer' and 'digits'"),
    ("decode codes", "for example: imagetok decode --tokenizer"),
    ("evaluate runs/a/tokenizer", "expected an option's name before 'runs/a/tokenizer'; for ex"),
    ("explore runs/a/tokenizer", "and --tokenizer is missing"),
    ("uncertainty runs/a/tokenizer", "and --tokenizer is missing"),
    ("demo runs/a/tokenizer", "expected an option's name before"),
    ("export --shards codes --to npy", "--shards is no option: its value is given without a name"),
    ("merge --shards a b --out x", "for example: imagetok merge codes/photos codes/paintings"),
    ("report --run runs/a", "for example: imagetok report"),
    ("train --config digits/edvae", "for example: imagetok train digits/edvae"),
]


@pytest.mark.parametrize(("line", "says"), CALLS)
def test_a_wrong_call_shows_a_right_one(line, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert _run(shlex.split(line)) == 2
    assert says in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("line", ["diagnose", "sample --out x", "train", "evaluate"])
def test_an_option_that_is_missing_alone_is_named_as_ever(line, capsys):
    assert _run(shlex.split(line)) == 2
    assert "Missing" in capsys.readouterr().err


SET = "train digits/edvae --out x --set"
SETTINGS = [
    (f"{SET} tokenizer.quantizer.kind=fsq", "--set 'tokenizer.quantizer={kind: fsq}'"),
    (f"{SET} 'tokenizer.quantizer={{kind: fsq}}'", "as in --set 'objective.weights={}'"),
    (f"{SET} tokenizer.quantizer=fsq", "--set 'tokenizer.quantizer={kind: fsq}'"),
    (f"{SET} data=photos", "data: expected a section, found the value 'photos'; set the whole"),
    (f"{SET} data=photos", "source one of digits, shapes,"),
    (f"{SET} train=5", "--set train.KEY=VALUE, KEY one of steps, batch_size"),
    (f"{SET} tokenizer.image=64", "KEY one of mode, height, width"),
]


@pytest.mark.parametrize(("line", "says"), SETTINGS)
def test_a_value_in_place_of_a_section_is_refused_in_one_line(
    line, says, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert _run(shlex.split(line)) == 2
    (error,) = [text for text in capsys.readouterr().err.splitlines() if "error" in text]
    assert says in error and "dictionary" not in error
    assert not any(tmp_path.iterdir())


def test_a_device_that_is_not_there_is_refused_with_those_that_are(tmp_path, capsys):
    call = ["train", "digits/edvae", "--set", "train.steps=1", "--out", str(tmp_path / "x")]
    assert _run([*call, "--device", "warp"]) == 2
    error = capsys.readouterr().err
    assert "device warp: cannot be used on this machine, which has cpu" in error
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["configs"], ["--help"]], ids=" ".join)
def test_a_reader_of_the_output_that_has_ended_is_no_fault(words):
    """As in `imagetok configs | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-P", "-m", "imagetok", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
