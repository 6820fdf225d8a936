"""The commands in their order on tiny models, their refusals and exit codes."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from browser import check_layout

from cli.main import _run
from cli.quickstart_pipeline import run_quickstart
from imagetok import open_codes
from imagetok.config import read_yaml
from imagetok.pictures import save_grid

CONFIGS = Path(__file__).parent.parent.parent / "configs" / "digits"
TINY = [
    "tokenizer.network.width=8",
    "tokenizer.quantizer.num_codes=16",
    "train.steps=30",
    "train.trackers=[]",
]
TINY_GPT = ["model.layers=1", "model.width=16", "model.heads=2", "train.steps=20"]


def sets(overrides: list[str]) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Path:
    """A trained tokenizer, its codes and a prior, made by the commands."""
    root = tmp_path_factory.mktemp("chain")
    tokenizer, codes = root / "edvae" / "tokenizer", root / "codes"
    train = ["train", str(CONFIGS / "edvae.yaml"), "--out", str(root / "edvae"), "--device", "cpu"]
    assert _run([*train, *sets(TINY)]) == 0
    for split in ("train", "test"):
        encode = ["encode", "--tokenizer", str(tokenizer), "--data", f"digits:{split}"]
        assert _run([*encode, "--shards", str(codes / split)]) == 0
    where = [
        f"data.source={codes / 'train'}",
        f"data.test={codes / 'test'}",
        f"tokenizer={tokenizer}",
        "train.trackers=[]",
    ]
    train = ["train", str(CONFIGS / "gpt.yaml"), "--out", str(root / "gpt"), "--device", "cpu"]
    assert _run([*train, *sets(where + TINY_GPT)]) == 0
    return root


def test_encode_counts_every_input(chain, capsys):
    again = ["encode", "--tokenizer", str(chain / "edvae" / "tokenizer"), "--data", "digits:test"]
    before = {p.name: p.read_bytes() for p in (chain / "codes" / "test").iterdir()}
    assert _run([*again, "--shards", str(chain / "codes" / "test")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == "inputs 180 == written 180 + skipped 0"
    assert {p.name: p.read_bytes() for p in (chain / "codes" / "test").iterdir()} == before
    assert len(open_codes(chain / "codes" / "train")) == 1617


def test_dry_run_writes_nothing(chain, tmp_path, capsys):
    words = ["encode", "--tokenizer", str(chain / "edvae" / "tokenizer"), "--data", "digits:all"]
    assert _run([*words, "--shards", str(tmp_path / "none"), "--dry-run"]) == 0
    assert "1,797 images -> 1 shard," in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_a_dry_run_of_training_states_the_facts(chain, tmp_path, monkeypatch, capsys):
    where = [f"data.source={chain / 'codes' / 'train'}", f"tokenizer={chain / 'edvae/tokenizer'}"]
    gpt = [str(CONFIGS / "gpt.yaml"), *sets([*where, "data.test=null", *TINY_GPT])]
    monkeypatch.chdir(tmp_path)
    for config, parts in [
        ([str(CONFIGS / "edvae.yaml"), *sets(TINY)], ("1,617", "180", "4 x 4 of 16", "64")),
        (gpt, ("1,536", "81", "10: 0, 1, 2, 3", "4 x 4 of 16", "64")),
    ]:
        assert _run(["train", *config, "--out", "run", "--device", "cpu", "--dry-run"]) == 0
        out = capsys.readouterr().out
        assert all(part in out for part in (*parts, "parameters", "memory", "time", "cpu"))
    assert not list(tmp_path.iterdir())


def test_train_ends_with_the_folder_and_a_command_that_runs(chain, capsys):
    for name, words in [("edvae", TINY), ("gpt", TINY_GPT)]:
        where = [
            f"data.source={chain / 'codes' / 'train'}",
            f"data.test={chain / 'codes' / 'test'}",
            f"tokenizer={chain / 'edvae' / 'tokenizer'}",
            "train.trackers=[]",
        ]
        words = words if name == "edvae" else [*where, *words]
        run = ["train", str(CONFIGS / f"{name}.yaml"), "--out", str(chain / name), "--resume"]
        assert _run([*run, "--device", "cpu", *sets(words)]) == 0
        folder, command = capsys.readouterr().out.splitlines()[-2:]
        assert folder == f"run folder: {chain / name}"
        program, *words = shlex.split(command.removeprefix("next: "))
        assert program == "imagetok"
        assert _run(words) == 0
    assert (chain / "edvae" / "codes" / "train" / "manifest.json").is_file()
    assert (chain / "gpt" / "samples" / "grid.png").is_file()


def test_sample_is_the_same_for_any_number(chain, tmp_path):
    words = ["sample", "--prior", str(chain / "gpt" / "prior"), "--seed", "7", "--label", "3"]
    for n in (3, 20):
        assert _run([*words, "-n", str(n), "--out", str(tmp_path / str(n))]) == 0
    for j in range(3):
        few, many = (tmp_path / n / f"{j:06d}.png" for n in ("3", "20"))
        assert few.read_bytes() == many.read_bytes()
    assert json.loads((tmp_path / "3" / "samples.json").read_text())["labels"] == [3]
    assert (tmp_path / "20" / "grid.png").is_file()


def test_decode_verify_inspect_reconstruct_evaluate(chain, tmp_path, capsys):
    tokenizer, codes = str(chain / "edvae" / "tokenizer"), str(chain / "codes" / "test")
    out = str(tmp_path / "decoded")
    assert _run(["decode", "--tokenizer", tokenizer, "--shards", codes, "--out", out]) == 0
    assert len(list((tmp_path / "decoded").glob("*.png"))) == 180
    for path in (tokenizer, codes, str(chain / "gpt"), str(chain / "gpt" / "prior")):
        assert _run(["verify", path]) == 0
        capsys.readouterr()
        assert _run(["inspect", path, "--json"]) == 0
        json.loads(capsys.readouterr().out)
    picture = str(tmp_path / "both.png")
    images = [str(p) for p in sorted((tmp_path / "decoded").glob("*.png"))[:3]]
    assert _run(["reconstruct", "--tokenizer", tokenizer, "--out", picture, *images]) == 0
    measures = tmp_path / "measures.json"
    words = ["evaluate", "--tokenizer", tokenizer, "--data", "digits:test", "--out", str(measures)]
    assert _run(words) == 0
    stored = json.loads(measures.read_text())["measures"]
    trained = [json.loads(r) for r in (chain / "edvae" / "metrics.jsonl").read_text().splitlines()]
    assert stored["mse"] == pytest.approx(trained[-1]["mse"], rel=1e-5)


def test_verify_finds_damage(chain, tmp_path, capsys):
    import shutil

    shutil.copytree(chain / "codes" / "test", tmp_path / "codes")
    shard = tmp_path / "codes" / "00000.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 4
    shard.write_bytes(data)
    assert _run(["verify", str(tmp_path / "codes")]) == 4
    assert "00000.tar" in capsys.readouterr().out


def write_flat_folder(folder: Path, chain: Path) -> None:
    folder.mkdir()
    dataset = open_codes(chain / "codes" / "test")
    for i in range(3):
        save_grid(dataset[i].codes[0][None, None].astype("uint8"), folder / f"{i}.png", 1)
    (folder / "broken.png").write_bytes(b"not an image")


def test_unreadable_images_are_refused_or_counted(chain, tmp_path, capsys):
    write_flat_folder(tmp_path / "photos", chain)
    words = ["encode", "--tokenizer", str(chain / "edvae" / "tokenizer")]
    words += ["--data", str(tmp_path / "photos"), "--shards", str(tmp_path / "codes")]
    assert _run(words) == 3
    assert "broken.png" in capsys.readouterr().err
    assert _run([*words, "--max-skip", "1"]) == 4
    out = capsys.readouterr().out
    assert "inputs 4 == written 3 + skipped 1" in out and "broken.png: not_image" in out


CASES = {
    "no config": (["train", "nothing.yaml"], 2, "nothing: cannot read the config"),
    "unknown key": (
        ["train", str(CONFIGS / "edvae.yaml"), "--set", "train.stepz=3"],
        2,
        "did you mean 'steps'",
    ),
    "wrong type": (
        ["train", str(CONFIGS / "edvae.yaml"), "--set", "train.steps=many"],
        2,
        "train.steps",
    ),
    "fp16 on a CPU": (
        [
            *("train", str(CONFIGS / "edvae.yaml"), "--device", "cpu", "--out", "fp16"),
            *("--set", "train.mixed_precision=fp16"),
        ],
        2,
        "fp16 needs a GPU",
    ),
    "no tokenizer": (
        ["encode", "--tokenizer", "nowhere", "--data", "digits", "--shards", "x"],
        3,
        "nowhere",
    ),
    "no prior": (["sample", "--prior", "nowhere", "--out", "x"], 3, "nowhere"),
    "unknown command": (["frobnicate"], 2, "frobnicate"),
    "nothing to verify": (
        ["verify", "."],
        3,
        "expected a tokenizer, prior, run, comparison or code",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_refusals(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words, code, text = CASES[name]
    assert _run(words) == code
    error = capsys.readouterr().err
    assert text in error and "Traceback" not in error
    assert not list(tmp_path.iterdir()), "a refusal left files behind"


def test_other_refusals_of_the_chain(chain, tmp_path, capsys):
    prior, tokenizer = chain / "gpt" / "prior", chain / "edvae" / "tokenizer"
    out = str(tmp_path / "x")
    assert _run(["sample", "--prior", str(prior), "--label", "12", "--out", out]) == 2
    assert "0..9" in capsys.readouterr().err
    assert _run(["sample", "--prior", str(tokenizer), "--out", out]) == 3
    assert _run(["encode", "--tokenizer", str(tokenizer), "--data", "digitz", "--shards", out]) == 2
    assert "digits" in capsys.readouterr().err
    words = ["train", str(CONFIGS / "edvae.yaml"), "--out", str(chain / "edvae"), *sets(TINY)]
    assert _run(words) == 2
    assert "--resume" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, where nothing can be made")
def test_an_output_that_cannot_be_made_is_one_message(chain, tmp_path, capsys):
    codes, prior = str(chain / "codes" / "test"), ["--prior", str(chain / "gpt" / "prior")]
    own, digits = ["--tokenizer", str(chain / "edvae" / "tokenizer")], ["--data", "digits:test"]
    picture = str(tmp_path / "four.png")
    save_grid(np.zeros((1, 1, 16, 16), dtype=np.uint8), Path(picture), 1)
    for words in [
        ["train", str(CONFIGS / "edvae.yaml"), *sets(TINY), "--out", "/proc/x"],
        ["encode", *own, *digits, "--shards", "/proc/x"],
        ["decode", *own, "--shards", codes, "--out", "/proc/x"],
        ["merge", codes, "--out", "/proc/x"],
        ["export", codes, "--to", "parquet", "--out", "/proc/x"],
        ["export", codes, "--to", "npy", "--out", "/proc/x"],
        ["inspect", codes, *own, "--contact-sheet", "/proc/x"],
        ["reconstruct", picture, *own, "--out", "/proc/x"],
        ["sample", *prior, "-n", "1", "--out", "/proc/x"],
        ["sample", *prior, "-n", "1", "--shards", "/proc/x"],
        ["complete", *prior, "--image", picture, "--keep-rows", "1", "-n", "1", "--out", "/proc/x"],
        ["evaluate", *own, *digits, "--out", "/proc/x"],
        ["diagnose", *own, *digits, "--out", "/proc/x"],
        ["uncertainty", *own, *digits, "--limit", "8", "--out", "/proc/x"],
        ["explore", *own, *digits, "--limit", "16", "--out", "/proc/x"],
        ["report", str(chain / "edvae"), "--out", "/proc/x"],
        ["compare", *[str(CONFIGS / f"{n}.yaml") for n in ("edvae", "dvae")], "--out", "/proc/x"],
        ["quickstart", "--out", "/proc/x"],
    ]:
        assert _run(words) == 5, words
        error = capsys.readouterr().err
        assert "error: /proc/x" in error and "can be created there" in error
        assert "Traceback" not in error


def test_names_too_long_for_a_disk_are_one_message(chain, capsys):
    codes = str(chain / "codes" / "test")
    for name in ("a" * 300, str(chain / ("a" * 250))):  # the second only while it is being written
        assert _run(["export", codes, "--to", "npy", "--out", name]) == 5
        assert "File name too long; choose a shorter name" in capsys.readouterr().err


def test_a_prior_refuses_codes_of_another_tokenizer(chain, tmp_path, capsys):
    other = ["train", str(CONFIGS / "edvae.yaml"), "--out", str(tmp_path / "other")]
    assert _run([*other, *sets([*TINY, "train.steps=1", "seed=9"])]) == 0
    words = ["train", str(CONFIGS / "gpt.yaml"), "--out", str(tmp_path / "gpt")]
    where = [
        f"data.source={chain / 'codes' / 'train'}",
        f"tokenizer={tmp_path / 'other' / 'tokenizer'}",
    ]
    assert _run([*words, *sets(where + TINY_GPT)]) == 3
    assert "encode the images with this tokenizer" in capsys.readouterr().err
    words = ["sample", "--prior", str(chain / "gpt" / "prior"), "--out", str(tmp_path / "s")]
    assert _run([*words, "--tokenizer", str(tmp_path / "other" / "tokenizer")]) == 3


@pytest.mark.slow  # the whole chain, twice
def test_quickstart_makes_a_report_and_can_be_continued(tmp_path, monkeypatch):
    monkeypatch.setattr("cli.quickstart_pipeline.NUM_SAMPLES", 40)
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    small = {
        "edvae": ("tokenizer", {"network": {"kind": "conv", "width": 8, "groups": 2}}),
        "gpt": ("model", {"layers": 1, "heads": 2, "width": 16}),
    }
    for name, (section, changes) in small.items():
        tree = read_yaml(CONFIGS / f"{name}.yaml")
        tree[section] |= changes
        tree["train"]["steps"] = 10
        (recipe / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    out = tmp_path / "quickstart"
    summary = run_quickstart(out, recipe)
    stored = json.loads((out / "summary.json").read_text())
    assert stored == summary
    assert set(stored) == {
        "seconds",
        "peak_memory_mb",
        "psnr_db",
        "num_codes",
        "codes_used",
        "class_agreement",
        "classifier_accuracy",
        "num_samples",
    }
    assert stored["classifier_accuracy"] > 0.9
    check_layout(out / "report.html")
    html = (out / "report.html").read_text()
    assert "data:image/png;base64" in html
    assert "imagetok sample --prior" in re.sub("</?span>", "", html)
    again = run_quickstart(out, recipe)  # everything is there: only sampling and report run again
    assert {k: v for k, v in again.items() if k not in ("seconds", "peak_memory_mb")} == {
        k: v for k, v in stored.items() if k not in ("seconds", "peak_memory_mb")
    }
