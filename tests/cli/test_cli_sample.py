"""`imagetok sample`: any number, stopped, killed and rerun, by any number of processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sampling_parts
import torch
from sampling_parts import FORMS, Sampling, make_prior_folder

import imagetok
from cli.main import _run
from imagetok import open_codes
from imagetok.errors import StoppedError
from prior import Prior, generation


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return make_prior_folder(tmp_path_factory.mktemp("priors"))


@pytest.fixture
def draw(source, monkeypatch) -> Callable[..., None]:
    """draw(out, form, n): images in chunks of 2, or shards of 2 codes."""
    monkeypatch.setattr(generation, "CHUNK", 2)
    return Sampling(source).draw


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def start(mode: str, source: Path, out: Path, *launcher: object) -> subprocess.Popen[str]:
    root, tests = Path(imagetok.__file__).parent.parent, Path(__file__).parents[1]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{root}:{tests}:{os.environ.get('PYTHONPATH', '')}",
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    words = [sys.executable, *launcher, sampling_parts.__file__, mode, source, out]
    return subprocess.Popen(
        list(map(str, words)), env=environment, stderr=subprocess.PIPE, text=True
    )


def test_more_images_continue_what_is_there(source, tmp_path, capsys):
    words = ["sample", "--prior", str(source), "--seed", "5"]
    assert _run([*words, "-n", "70", "--out", str(tmp_path / "whole")]) == 0
    assert _run([*words, "-n", "3", "--out", str(tmp_path / "grown")]) == 0
    kept = (tmp_path / "grown" / "000001.png").stat().st_mtime_ns
    (tmp_path / "grown" / "000002.png").unlink()
    capsys.readouterr()
    assert _run([*words, "-n", "70", "--out", str(tmp_path / "grown")]) == 0
    assert "70 images" in (out := capsys.readouterr().out) and "(68 new)" in out
    whole = content(tmp_path / "whole")
    assert content(tmp_path / "grown") == whole
    assert (tmp_path / "grown" / "000001.png").stat().st_mtime_ns == kept
    assert sorted(whole) == [*(f"{j:06d}.png" for j in range(70)), "grid.png", "samples.json"]
    assert len({whole[f"{j:06d}.png"] for j in range(70)}) > 50


def test_what_made_the_samples_is_recorded(source, tmp_path):
    words = ["sample", "--prior", str(source), "-n", "4", "--label", "b,2,none", "--top-k", "5"]
    assert _run([*words, "--out", str(tmp_path / "s")]) == 0
    record = json.loads((tmp_path / "s" / "samples.json").read_text())
    prior = Prior.from_pretrained(source)
    assert record == {
        "prior": prior.fingerprint,
        "origin": str(source),
        "tokenizer": prior.config.tokenizer_fingerprint,
        "num_images": 4,
        "labels": [1, 2, -1],
        "class_names": ["a", "b", "c"],
        **{"temperature": 1.0, "top_k": 5, "top_p": None, "greedy": False, "guidance": 1.0},
        "seed": 0,
    }


def test_a_rerun_with_other_settings_is_refused_with_the_fields(source, tmp_path, capsys):
    out = tmp_path / "s"
    words = ["sample", "--prior", str(source), "--out", str(out)]
    assert _run([*words, "-n", "3"]) == 0
    before = content(out)
    changes = ["--seed", "2", "--temperature", "0.5", "--top-p", "0.9", "--label", "1"]
    assert _run([*words, "-n", "3", *changes]) == 2
    error = capsys.readouterr().err
    for line in (
        "seed: 0 in the folder, 2 requested",
        "temperature: 1.0 in the folder, 0.5 requested",
        "top_p: None in the folder, 0.9 requested",
        "labels: [0, 1, 2] in the folder, [1] requested",
    ):
        assert f"\n  {line}\n" in error
    assert "greedy" not in error and "num_images" not in error
    assert _run([*words, "-n", "2"]) == 2
    assert "num_images: 3 in the folder, 2 requested" in capsys.readouterr().err
    assert content(out) == before
    (out / "samples.json").write_text("{")
    assert _run([*words, "-n", "3"]) == 3
    assert "samples.json: damaged" in capsys.readouterr().err
    (out / "samples.json").unlink()
    assert _run([*words, "-n", "3"]) == 2
    assert "expected an empty folder or a set of samples" in capsys.readouterr().err


def test_shards_hold_the_codes_of_the_same_images(source, tmp_path, capsys):
    words = ["sample", "--prior", str(source), "-n", "35", "--seed", "3"]
    shards, images = tmp_path / "shards", tmp_path / "images"
    assert _run([*words, "--shards", str(shards), "--samples-per-shard", "16"]) == 0
    assert "codes of 35 images" in capsys.readouterr().out
    dataset, prior = open_codes(shards), Prior.from_pretrained(source)
    assert dataset.fingerprint == prior.config.tokenizer_fingerprint
    assert dataset.plan.num_shards == 3
    assert dataset.plan.class_names == ("a", "b", "c")
    batch = dataset.__getitems__(range(35))
    assert torch.equal(batch.codes[0], prior.sample(35, seed=3)[0])
    assert batch.labels.tolist() == [j % 3 for j in range(35)]
    assert batch.keys.tolist() == list(range(35))
    assert _run(["verify", str(shards)]) == 0
    assert _run(["inspect", str(shards)]) == 0
    assert _run([*words, "--out", str(images)]) == 0
    own = ["--tokenizer", str(source / "tokenizer")]
    assert _run(["decode", *own, "--shards", str(shards), "--out", str(tmp_path / "d")]) == 0
    decoded = content(tmp_path / "d")
    assert decoded.pop("decoded.json")
    assert {name: content(images)[name] for name in decoded} == decoded
    before = content(shards)
    assert _run([*words, "--shards", str(shards), "--samples-per-shard", "16"]) == 0
    assert content(shards) == before
    capsys.readouterr()
    assert _run([*words, "--shards", str(shards), "--greedy"]) == 2
    error = capsys.readouterr().err
    assert "source: " in error and "greedy=True" in error and "samples_per_shard" in error


@pytest.mark.parametrize("form", ["images", "shards"])
def test_a_signal_stops_it_and_a_rerun_continues(form, draw, tmp_path, monkeypatch):
    draw(tmp_path / "whole", form, 7)
    calls, sample = iter(range(100)), Prior.sample

    def stop_in_the_second_chunk(self, n, **how):
        if n and next(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return sample(self, n, **how)

    with monkeypatch.context() as patch, pytest.raises(StoppedError) as stopped:
        patch.setattr(Prior, "sample", stop_in_the_second_chunk)
        draw(tmp_path / "stopped", form, 7)
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    there = {name for name in content(tmp_path / "stopped")}
    assert there == (
        {"samples.json", *(f"{j:06d}.png" for j in range(4))}
        if form == "images"
        else {"plan.json", "00000.tar", "00000.json"}
    )
    draw(tmp_path / "stopped", form, 7)
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


@pytest.mark.slow
def test_a_kill_at_any_fsync_or_rename_is_made_good_by_a_rerun(source, draw, tmp_path):
    process = start("kill", source, tmp_path / "killed")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    for form in FORMS:
        draw(tmp_path / form, form, 3)
        whole = content(tmp_path / form)
        folders = sorted((tmp_path / "killed" / form).iterdir())
        # fsync, rename, fsync of the folder for each file; the last one is not killed. An npz file
        # comes after the files of a folder.
        files = len(whole) if form != "npz" else 1 + len(content(tmp_path / "images"))
        assert len(folders) == 3 * files + 1
        for folder in folders:
            assert content(folder) == whole, folder.name


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(source, draw, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2)
    process = start("draw", source, tmp_path / "two", *launcher)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    for form in FORMS:
        draw(tmp_path / form, form, 7)
        assert content(tmp_path / "two" / form) == content(tmp_path / form)


REFUSALS = {
    "temperature 0": (["--temperature", "0"], "above 0, found 0.0"),
    "temperature below": (["--temperature=-1"], "greedy"),
    "too many codes": (["--top-k", "8"], "codebook size 7, found 8"),
    "no code": (["--top-k", "0"], "1 or more"),
    "probability": (["--top-p", "1.5"], "(0, 1]"),
    "label": (["--label", "3"], "expected 0..2, all or none (-1), or a class name like a, b, c"),
    "name": (["--label", "a,zebra"], "found 'zebra'"),
    "no number": (["--label=--1"], "found '--1'"),
    "guidance": (["--label", "none", "--guidance", "2"], "no class to guide towards"),
    "greedy and more": (["--greedy", "--top-k", "2"], "omit them"),
    "both": (["--shards", "shards"], "either --out"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name, source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words, text = REFUSALS[name]
    assert _run(["sample", "--prior", str(source), "--out", "x", *words]) == 2
    error = capsys.readouterr().err
    assert text in error and "Traceback" not in error
    assert not list(tmp_path.iterdir()), "a refusal left files behind"


def test_a_class_asked_of_a_prior_without_classes_is_refused(tmp_path, capsys):
    source = make_prior_folder(tmp_path, num_classes=0)
    words = ["sample", "--prior", str(source), "-n", "2", "--out", str(tmp_path / "x")]
    assert _run([*words, "--label", "0"]) == 2
    assert "trained without classes" in capsys.readouterr().err
    assert _run(words) == 0
    assert json.loads((tmp_path / "x" / "samples.json").read_text())["labels"] == [-1]
    shards = ["sample", "--prior", str(source), "-n", "2", "--shards", str(tmp_path / "c")]
    assert _run(shards) == 0
    assert open_codes(tmp_path / "c").num_classes is None


def test_a_tokenizer_of_other_codes_is_refused(source, tmp_path, capsys):
    other = make_prior_folder(tmp_path, seed=1) / "tokenizer"
    words = ["sample", "--prior", str(source), "--tokenizer", str(other)]
    assert _run([*words, "--out", str(tmp_path / "x")]) == 3
    assert "belongs to tokenizer" in capsys.readouterr().err
