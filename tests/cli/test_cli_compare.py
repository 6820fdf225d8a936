"""`imagetok compare` on tiny runs: killed or not, alone or side by side, the same values."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from disk_faults import at_every_operation, in_fork
from safetensors.torch import save_file

import imagetok
import prior
from cli.main import _run
from imagetok.codes.reader import open_codes
from imagetok.config import read_yaml
from imagetok.evaluation.cifar_resnet import CIFARResNet
from imagetok.training.metrics_log import read_json_lines

DIGITS = Path(__file__).parents[2] / "configs" / "digits"
STEPS = 20


def values(out: Path) -> dict[str, Any]:
    """comparison.json without what depends on the clock."""
    result = json.loads((out / "comparison.json").read_bytes())
    for method in result["methods"]:
        assert (method.pop("train_images_per_second") is None) == (method["name"] == "c")
        assert (method.pop("encode_images_per_second") is None) == (method["name"] in "bc")
    return result


def test_the_values_are_those_that_the_runs_stored(whole):
    result = values(whole)
    assert [m["name"] for m in result["methods"]] == ["a", "b", "c"]
    for method in result["methods"][:2]:
        (cell,) = method["cells"]
        run = whole / method["name"] / "seed-5"
        tests = [r for r in read_json_lines(run / "metrics.jsonl") if r["split"] == "test"]
        assert [r["step"] for r in tests] == [8, 16, STEPS] and "ssim" in tests[-1]
        assert cell["status"] == "finished" and cell["seed"] == 5
        assert {**cell["measures"], **tests[-1]} == {
            **cell["measures"], "step": STEPS, "split": "test"
        }  # fmt: skip
        if method["name"] == "a":
            assert cell["measures"]["dead_codes"] == 64 - tests[-1]["codes_used"]
            assert cell["measures"]["bits_per_image"] == 36 * 6
        assert method["mean"] == cell["measures"] and method["std"] == {}
    assert result["methods"][2]["mean"] == {}
    assert {c["reason"] for c in result["methods"][2]["cells"]} == {"training diverged"}


def test_what_is_written_names_the_failure_and_no_path(whole):
    page = (whole / "comparison.md").read_text()
    assert page.count("Failed: c, seed") == 1 and "| a | 5 |" in page
    for name in ("comparison.json", "comparison.md", "report.html", "plan.json"):
        assert str(whole.parent) not in (whole / name).read_text()
    for name in ("comparison.png", "reconstructions.png"):
        assert (whole / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow  # two comparisons, one of them killed
def test_killed_and_stopped_and_one_at_a_time_gives_the_same(words, whole, tmp_path, capsys):
    out = tmp_path / "out"
    command = [*words, "--out", str(out), "--jobs", "1"]
    for run, number, code in [("a/seed-5", signal.SIGKILL, -9), ("b/seed-5", signal.SIGTERM, 143)]:
        process = subprocess.Popen([sys.executable, "-m", "imagetok", *command])
        wait_for_steps(out / run, 5, process)
        process.send_signal(number)
        assert process.wait(timeout=300) == code
        assert not (out / run / "finished.json").exists()
    before = (out / "a" / "seed-5" / "tokenizer" / "model.safetensors").stat().st_mtime_ns
    assert _run(command) == 6
    assert (out / "a" / "seed-5" / "tokenizer" / "model.safetensors").stat().st_mtime_ns == before
    assert values(out) == values(whole)
    shown = capsys.readouterr().out
    assert "failed: c, seed 5: step" in shown and "written:" in shown


def no_rates(out: Path) -> dict[str, Any]:
    result = json.loads((out / "comparison.json").read_bytes())
    for method in result["methods"]:
        del method["train_images_per_second"], method["encode_images_per_second"]
    return result


@pytest.fixture(scope="module")
def two(words, tmp_path_factory) -> tuple[list[str], Path]:
    """The command for two methods that both finish, and what it makes, uninterrupted."""
    command = [*words[:3], *words[4:]]
    out = tmp_path_factory.mktemp("two") / "out"
    assert _run([*command, "--out", str(out)]) == 0
    return command, out


STAGES = {
    "planned": "plan.json",
    "training": "a/seed-5/metrics.jsonl",
    "first finished": "a/seed-5/finished.json",
    "all trained": "b/seed-5/finished.json",
}


@pytest.mark.slow  # a comparison a stage, and a half
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_a_stage_it_gives_the_same(two, tmp_path, stage):
    command, whole = two
    out = tmp_path / "out"
    words = [*command, "--out", str(out), "--jobs", "1"]
    process = subprocess.Popen([sys.executable, "-m", "imagetok", *words])
    begun = time.monotonic()
    while not (out / STAGES[stage]).exists() and time.monotonic() - begun < 600:
        assert process.poll() is None, "ended early"
        time.sleep(0.005)
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert not (out / "comparison.json").exists()
    assert _run(words) == 0
    assert no_rates(out) == no_rates(whole)
    assert imagetok.verify(out).faults == ()


def kill_at(point: int, work: Callable[[], None]) -> int:
    """How the work ends in a process that is killed before its point-th disk operation."""
    points = iter(range(10**6))

    def before(_: str) -> None:
        if next(points) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def killed() -> None:
        with at_every_operation(before):
            work()

    return in_fork(killed)


@pytest.mark.slow  # many reruns
def test_killed_while_it_writes_it_gives_the_same(two, tmp_path):
    command, whole = two
    for point in range(0, 10**6, 13):  # no factor of the six operations of a file
        out = tmp_path / f"{point:03d}" / "out"
        made = shutil.ignore_patterns("comparison.*", "*.png", "report.html")
        shutil.copytree(whole, out, ignore=made)

        def work(out: Path = out) -> None:
            assert _run([*command, "--out", str(out)]) == 0

        end = kill_at(point, work)
        assert end in (0, -signal.SIGKILL)
        assert end == 0 or in_fork(work) == 0
        assert no_rates(out) == no_rates(whole)
        assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()}
        for name in ("comparison.png", "reconstructions.png"):
            assert (out / name).read_bytes() == (whole / name).read_bytes()
        if end == 0:
            assert point > 10
            break


def wait_for_steps(run: Path, steps: int, process: subprocess.Popen[bytes]) -> None:
    begun = time.monotonic()
    while time.monotonic() - begun < 600:  # seconds, on a machine that does much else
        path = run / "metrics.jsonl"
        if path.is_file() and path.read_text().count('"train"') >= steps:
            return
        assert process.poll() is None, "ended early"
        time.sleep(0.005)
    pytest.fail("no progress")


def test_inspect_and_verify_know_a_comparison(words, whole, tmp_path, capsys):
    """Its plan.json is not that of a code dataset."""
    assert _run(["inspect", str(whole), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "comparison" and told["seeds"] == [5]
    stored = values(whole)["methods"]
    assert {name: m["mean"] for name, m in told["methods"].items()} == {
        m["name"]: m["mean"] for m in stored
    }
    assert told["methods"]["a"]["finished_seeds"] == [5]
    assert told["methods"]["c"]["finished_seeds"] == []
    assert _run(["verify", str(whole)]) == 0
    assert capsys.readouterr().out == f"{whole}: good\n"
    assert _run(["push", str(whole), "ann/x"]) == 3
    assert "expected a tokenizer or prior, found a comparison" in capsys.readouterr().err
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    (copy / "a.yaml").write_text((copy / "b.yaml").read_text())
    result = json.loads((copy / "comparison.json").read_bytes())
    result["methods"][0]["cells"][0]["fingerprint"] = "0" * 64
    (copy / "comparison.json").write_text(json.dumps(result))
    weights = copy / "b" / "seed-5" / "tokenizer" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    faults = imagetok.verify(copy).faults
    assert len(faults) == 3
    assert "a.yaml: differs from the config in plan.json" in faults[0]
    assert "a, seed 5: its fingerprint is not that" in faults[1]
    assert "model.safetensors" in faults[2]
    (copy / "plan.json").write_text("{")
    assert imagetok.verify(copy).faults[0].startswith(f"{copy / 'plan.json'}: damaged")


@pytest.mark.slow  # two processes
def test_the_function_gives_what_the_command_gave(words, whole, tmp_path):
    """Nothing is left to train, so it measures and writes again."""
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    (copy / "comparison.json").unlink()
    configs = [word for word in words if word.endswith(".yaml")]
    found = imagetok.compare(configs, copy, seeds=[5], device="cpu", progress=False)
    assert values(copy) == values(whole)
    assert found.exit_code == 6 and {cell.method for cell in found.failures} == {"c"}
    assert "3 tokenizers on digits:test" in repr(found) and "failed: c, seed 5" in repr(found)
    assert {p.ndim for p in found.pictures().values()} == {3} and len(found.pictures()) == 2


def test_other_seeds_or_settings_are_refused(words, whole, capsys):
    for more, key in [(["--seeds", "6"], "seeds"), (["--set", "train.steps=10"], "train.steps")]:
        assert _run([*words, *more, "--out", str(whole)]) == 2
        assert key in capsys.readouterr().err


@pytest.mark.slow  # two processes
def test_a_damaged_cell_is_told_and_the_others_are_kept(words, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "copy")
    weights = tmp_path / "copy" / "b" / "seed-5" / "tokenizer" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert _run([*words, "--out", str(tmp_path / "copy")]) == 3
    out = capsys.readouterr().out
    assert "failed: b, seed 5: " in out and "sha256" in out and "delete" in out
    methods = json.loads((tmp_path / "copy" / "comparison.json").read_bytes())["methods"]
    assert [cell["status"] for m in methods for cell in m["cells"]] == [
        "finished",
        "failed",
        "failed",
    ]


@pytest.fixture
def one_cell(words, tmp_path) -> list[str]:
    """The command for one method and seed, with a prior and a feature network."""
    tree = read_yaml(DIGITS / "pixelcnn.yaml")
    tree["model"] |= {"width": 8, "layers": 2, "head": 8}
    tree["train"] |= {"steps": 6, "evaluate_every": 3, "checkpoint_every": 3, "trackers": []}
    (tmp_path / "prior.yaml").write_text(yaml.safe_dump(tree))
    save_file(CIFARResNet(1).state_dict(), tmp_path / "net.safetensors")
    command = [*words[:2], "--seeds", "5", "--device", "cpu", "--set", "train.steps=25"]
    features = f"cifar-resnet={tmp_path / 'net.safetensors'}"
    return [*command, "--features", features, "--prior", str(tmp_path / "prior.yaml")]


@pytest.mark.slow  # eight processes, one after the other
def test_a_prior_is_trained_and_measured_on_the_codes_of_each(one_cell, tmp_path, capsys):
    out = tmp_path / "out"
    command = [*one_cell, "--samples", "30", "--out", str(out)]
    assert _run(command) == 0
    told = capsys.readouterr().out
    result = json.loads((out / "comparison.json").read_bytes())
    (method,) = result["methods"]
    folder = out / "a" / "seed-5-later"
    tests = [r for r in read_json_lines(folder / "prior" / "metrics.jsonl") if r["split"] == "test"]
    mean = method["mean"]
    later = result["later"]
    splits = {split: open_codes(folder / "codes" / split) for split in ("train", "test")}
    assert len(tests) == 2 and {r["num_images"] for r in tests} == {
        later["selection"]["num_images"]
    } == {round(later["selection"]["held_out"] * len(splits["train"]))}
    measured = prior.evaluate(folder / "prior" / "prior", splits["test"], device="cpu")
    assert mean["prior_bits_per_code"] == measured.measures["bits_per_code"]
    assert mean["prior_bits_per_code"] != tests[-1]["bits_per_code"]
    assert later["prior_measured_on"] == {"split": "test", "num_images": len(splits["test"])}
    assert later["reference"]["data"] == "digits:train"
    assert later["reference"]["data_count"] == len(splits["train"])
    assert later["reconstruction_reference"]["data"] == "digits:test"
    for kind, prefix in [("reconstructions", "r"), ("samples", "")]:
        (path,) = folder.glob(f"{kind}-*.json")
        record = json.loads(path.read_bytes())
        for name in ("frechet", "precision", "recall"):
            key = f"{prefix}{name}_cifar-resnet8"
            assert mean[key] == record["measures"][key] and key in told
        assert record["identity"]["networks"] == result["later"]["networks"]
    assert result["later"]["num_samples"] == 30 == len(list((folder / "samples").glob("0*.png")))
    page = (out / "comparison.md").read_text()
    assert "30 samples of the prior from all 1,617 images of digits:train" in page
    assert "81 of the training images (a share of 0.05) are held out" in page
    assert "measured once on the 180 images of the test split" in page
    assert "prior, bits per code" in page
    assert str(tmp_path) not in page + (out / "comparison.json").read_text()
    evaluated = path.stat().st_mtime_ns
    assert _run(command) == 0, "again"
    assert path.stat().st_mtime_ns == evaluated
    again = json.loads((out / "comparison.json").read_bytes())
    assert again["methods"][0]["mean"] == mean


def test_a_prior_that_was_selected_on_test_images_is_refused(one_cell, tmp_path, capsys):
    run = tmp_path / "out" / "a" / "seed-5-later" / "prior"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("data: {source: codes/train, test: codes/test}\n")
    assert _run([*one_cell, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert f"{run}: data.test: expected null" in told and "seed-*-later" in told
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [run / "config.yaml"]


def test_more_reference_images_than_there_are_is_refused(one_cell, tmp_path, capsys):
    words = ["--reference", "test", "--reference-count", "181", "--out", str(tmp_path / "out")]
    assert _run([*one_cell, *words]) == 2
    assert "expected 1 to 180, the images of digits:test" in capsys.readouterr().err


def test_samples_need_a_prior_and_features(words, tmp_path, capsys):
    assert _run([*words[:2], "--samples", "5", "--out", str(tmp_path / "out")]) == 2
    assert "--samples: needs --prior" in capsys.readouterr().err
    assert _run([*words[:2], "--reference", "test", "--out", str(tmp_path / "out")]) == 2
    assert "--reference: needs --prior" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
