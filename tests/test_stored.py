"""What an earlier version stored (tests/stored) is read, and goes on, as it did then.

Only integers, names and bytes are compared: the last bits of a computed float, and all that follows
from them, differ from one CPU to another.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from representative import slow_but
from safetensors import safe_open

from cli.main import _run
from imagetok import Tokenizer, open_codes
from imagetok.tokenizers import Autoencoder
from prior import Prior

STORED = Path(__file__).parent / "stored"
INSPECTED: dict[str, Any] = json.loads((STORED / "made.json").read_bytes())["inspected"]
TOKENIZERS = sorted(name for name, seen in INSPECTED.items() if seen["kind"] == "tokenizer")
PRIORS = sorted(name for name, seen in INSPECTED.items() if seen["kind"] == "prior")
CODES = sorted(name for name, seen in INSPECTED.items() if seen["kind"] == "codes")
RUNS = sorted(name for name, seen in INSPECTED.items() if seen["kind"] == "run")
REPORTED = [["runs/edvae", "runs/vqvae-ema"], *([run] for run in RUNS)]
COMPARE = json.loads((STORED / "made.json").read_bytes())["compare"]
CPU = ["--device", "cpu"]


@pytest.fixture
def stored(tmp_path, monkeypatch) -> Path:
    """A copy that may be changed, as the working folder: stored paths are relative to it."""
    folder = tmp_path / "stored"
    shutil.copytree(STORED, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)  # for tiny_features
    monkeypatch.setenv("PYTHONPATH", f"{STORED.parents[1]}:{folder}")  # of processes started
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def without_floats(tree: Any) -> Any:
    """Plain data without numbers that were computed."""
    match tree:
        case dict():
            return {k: without_floats(v) for k, v in tree.items() if not isinstance(v, float)}
        case list():
            return [without_floats(value) for value in tree if not isinstance(value, float)]
        case _:
            return tree


def logged(run: Path) -> list[tuple[int, str]]:
    """(step, split) of every record of metrics.jsonl."""
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(record["step"], record["split"]) for record in records]


def test_every_kind_is_stored():
    kinds = {seen["kind"] for seen in INSPECTED.values()}
    assert kinds == {"tokenizer", "autoencoder", "prior", "codes", "run"}
    assert sum(path.stat().st_size for path in STORED.rglob("*") if path.is_file()) < 1_000_000


@pytest.mark.parametrize("name", INSPECTED)
def test_it_is_whole_and_described_as_then(name, stored, capsys):
    assert _run(["verify", name]) == 0
    capsys.readouterr()
    assert _run(["inspect", name, "--json"]) == 0
    seen, then = json.loads(capsys.readouterr().out), INSPECTED[name]
    assert without_floats({key: seen[key] for key in then}) == without_floats(then)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_encode_and_decode(name):
    tokenizer = Tokenizer.from_pretrained(STORED / name)
    assert tokenizer.fingerprint == INSPECTED[name]["fingerprint"]
    image = tokenizer.image
    channels = 3 if image.mode == "rgb" else 1
    codes = tokenizer.encode(torch.zeros(2, channels, image.height, image.width))
    assert [level.dtype for level in codes] == [torch.int64] * len(tokenizer.num_codes)
    assert tokenizer.decode(codes).shape == (2, channels, image.height, image.width)


@pytest.mark.parametrize("name", [*TOKENIZERS, "runs/vae/tokenizer"])
def test_weights_have_the_names_that_they_had(name):
    with safe_open(STORED / name / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert set(Autoencoder.from_pretrained(STORED / name).state_dict()) == names
    if name == "runs/vqvae-ema/tokenizer":
        assert {"quantizer.renewal.started", "quantizer.renewal.reset.usage"} <= names


@pytest.mark.parametrize("name", PRIORS)
def test_priors_belong_to_their_tokenizer_and_sample(name):
    prior = Prior.from_pretrained(STORED / name)
    assert prior.fingerprint == INSPECTED[name]["fingerprint"]
    tokenizer = Tokenizer.from_pretrained(STORED / name / "tokenizer")
    assert prior.config.tokenizer_fingerprint == tokenizer.fingerprint
    codes = prior.sample(2, label=3, seed=0)
    assert tokenizer.decode(codes).shape[0] == 2
    for level, count in zip(codes, tokenizer.num_codes, strict=True):
        assert 0 <= int(level.min()) <= int(level.max()) < count


@pytest.mark.parametrize(("config", "made"), [("vqvae-ema", "tokenizer"), ("pixelsnail", "prior")])
def test_stopped_runs_go_on(config, made, stored, capsys):
    run = stored / "runs" / f"{config}-stopped"
    (checkpoint,) = (run / "checkpoints").glob("step-*")
    kept = json.loads((checkpoint / "state.json").read_bytes())["metrics_bytes"]
    before = (run / "metrics.jsonl").read_bytes()
    words = ["train", f"configs/{config}.yaml", "--out", f"runs/{config}-stopped", *CPU]
    assert _run([*words, "--resume"]) == 0
    assert (run / "metrics.jsonl").read_bytes()[:kept] == before[:kept] and kept > 0
    assert logged(run) == logged(stored / "runs" / config)
    assert json.loads((run / "finished.json").read_bytes())["step"] == logged(run)[-1][0]
    assert _run(["verify", f"runs/{config}-stopped"]) == 0
    assert (run / made / "model.safetensors").is_file()


def test_a_finished_run_stays_and_can_be_extended(stored):
    run, words = stored / "runs" / "edvae", ["train", "configs/edvae.yaml", "--out", "runs/edvae"]
    before = contents(run)
    assert _run([*words, *CPU, "--resume"]) == 0
    assert contents(run) == before
    steps = logged(run)[-1][0]
    assert _run([*words, *CPU, "--resume", "--set", f"train.steps={steps + 5}"]) == 0
    assert logged(run)[-1] == (steps + 5, "test") and _run(["verify", "runs/edvae"]) == 0
    assert (run / "metrics.jsonl").read_bytes().startswith(before["metrics.jsonl"])


@pytest.mark.parametrize(
    ("tokenizer", "data"),
    [("edvae", "digits:test"), ("vqvae2", "shapes:test,count=120,test_count=40,seed=0")],
)
def test_code_datasets_stay_and_are_finished(tokenizer, data, stored):
    folder = stored / "codes" / f"{tokenizer}-test"
    before = contents(folder)
    words = ["--tokenizer", f"runs/{tokenizer}/tokenizer", "--data", data, *CPU]
    for _ in ("finished", "without its last file"):
        assert _run(["encode", *words, "--shards", f"codes/{tokenizer}-test"]) == 0
        assert contents(folder) == before
        (folder / "manifest.json").unlink()


@pytest.mark.parametrize("name", CODES)
def test_codes_are_decoded(name, stored, tmp_path):
    dataset = open_codes(stored / name)
    tokenizer = "vqvae2" if len(dataset.plan.num_codes) > 1 else "edvae"
    if name.startswith("codes") and name.endswith("-train"):
        return  # the same, with many files
    words = ["decode", "--tokenizer", f"runs/{tokenizer}/tokenizer", "--shards", name, *CPU]
    assert _run([*words, "--out", str(tmp_path / "decoded")]) == 0
    assert len(list((tmp_path / "decoded").glob("*.png"))) == len(dataset)


@pytest.mark.parametrize(
    ("file", "tokenizer"),
    [("edvae-test.parquet", "edvae"), ("edvae-test", "edvae"), ("vqvae2.parquet", "vqvae2")],
)
def test_exported_codes_are_imported(file, tokenizer, stored):
    if file.endswith("parquet"):
        pytest.importorskip("pyarrow")
    words = ["import", f"exported/{file}", "--tokenizer", f"runs/{tokenizer}/tokenizer"]
    assert _run([*words, "--shards", "imported"]) == 0
    first, second = open_codes("imported"), open_codes(f"codes/{tokenizer}-test")
    assert len(first) == len(second)
    for one, two in zip(first, second, strict=True):
        assert one.label == two.label
        assert all(map(np.array_equal, one.codes, two.codes))


@pytest.mark.parametrize(
    ("name", "drawn", "how"),
    [("gpt", 6, ["--seed", "7", "--label", "3", "--top-k", "8"]),
     ("hierarchy", 4, ["--label", "all"])],
)  # fmt: skip
def test_samples_go_on(name, drawn, how, stored, capsys):
    folder = stored / "samples" / name
    before = contents(folder)
    words = ["sample", "--prior", f"runs/{name}/prior", "--out", f"samples/{name}", *CPU]
    assert _run([*words, *how, "-n", str(drawn)]) == 0
    drawn_again = {"grid.png"}  # its bytes are those of the installed zlib
    assert all(contents(folder)[name] == before[name] for name in before.keys() - drawn_again)
    assert _run([*words, *how, "-n", str(drawn + 3)]) == 0
    after = contents(folder)
    record, earlier = (json.loads(files["samples.json"]) for files in (after, before))
    assert record == earlier | {"num_images": drawn + 3}
    assert {f"{j:06d}.png" for j in range(drawn + 3)} <= after.keys()
    assert all(after[f"{j:06d}.png"] == before[f"{j:06d}.png"] for j in range(drawn))
    assert _run([*words, "--seed", "8", "-n", str(drawn)]) == 2
    assert "seed" in capsys.readouterr().err


def test_sampled_codes_stay(stored):
    before = contents(stored / "samples" / "gpt-codes")
    words = ["sample", "--prior", "runs/gpt/prior", "--seed", "7", "--guidance", "1.5", *CPU]
    assert _run([*words, "-n", "8", "--shards", "samples/gpt-codes"]) == 0
    assert contents(stored / "samples" / "gpt-codes") == before


def test_images_are_completed(stored):
    words = ["complete", "--prior", "runs/pixelsnail/prior", "--keep-rows", "2", *CPU]
    assert _run([*words, "--image", "samples/gpt/000000.png", "-n", "2", "--out", "done"]) == 0
    assert (stored / "done" / "completions.png").is_file()


def test_measures_are_shown_beside_new_ones(stored, capsys):
    words = ["evaluate", "--tokenizer", "runs/edvae/tokenizer", "--data", "digits:test", *CPU]
    assert _run([*words, "--beside", "measures.json", "--out", "again.json"]) == 0
    shown = capsys.readouterr().out.split()
    assert "measures.json" in shown
    then, now = (json.loads((stored / f).read_bytes()) for f in ("measures.json", "again.json"))
    assert then["measures"].keys() <= now["measures"].keys()
    assert now["identity"] == then["identity"]
    assert now["subject"]["tokenizer"] == then["subject"]["tokenizer"]
    assert {"perplexity_batch128", "perplexity_batch128_all"} <= set(shown)


def test_a_logged_measure_that_meant_something_else_is_renamed(stored, capsys):
    assert _run(["inspect", "runs/edvae", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["test"]
    assert "perplexity_batch128_all" in measured and "perplexity_batch128" not in measured


def test_samples_are_measured(stored):
    words = ["evaluate", "--tokenizer", "runs/edvae/tokenizer", "--data", "digits:test", *CPU]
    words += ["--samples", "samples/gpt", "--features", "python:tiny_features:network"]
    assert _run([*words, "--out", "samples.json"]) == 0
    assert json.loads((stored / "samples.json").read_bytes())["measures"]["num_samples"] == 6


@pytest.mark.parametrize("runs", slow_but([REPORTED[0], ["runs/gpt"]], REPORTED))
def test_runs_are_reported(runs, stored):
    assert _run(["report", *runs, "--out", "page.html"]) == 0
    assert (stored / "page.html").read_text().rstrip().endswith("</html>")


def test_a_comparison_is_whole_and_described(stored, capsys):
    assert _run(["verify", "compared"]) == 0
    capsys.readouterr()
    assert _run(["inspect", "compared", "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    then = {m["name"]: m["mean"] for m in methods(contents(stored / "compared"))}
    assert seen["kind"] == "comparison"
    assert {name: m["mean"] for name, m in seen["methods"].items()} == then


@pytest.mark.slow  # measures speed and reconstructions again
def test_a_comparison_is_read_and_left_as_it_is(stored):
    folder = stored / "compared"
    before = contents(folder)
    assert _run(without_prior(COMPARE)) == 0
    after = contents(folder)
    changed = {name for name in before if after[name] != before[name]}
    of_the_clock = {name for name in before if name.endswith("timing.jsonl")}
    assert changed <= {"comparison.json", "comparison.md"} | of_the_clock
    later = {*json.loads(before["comparison.json"])["later"]["measures"], "prior_bits_per_code"}
    for one, two in zip(*(methods(files) for files in (before, after)), strict=True):
        for measures in (one["mean"], one["std"], *(cell["measures"] for cell in one["cells"])):
            for name in later & measures.keys():
                measures.pop(name)
        assert two.pop("parameters") <= one.pop("parameters")  # running averages counted then
        assert one == two
    assert {"comparison.png", "reconstructions.png", "report.html"} <= after.keys()


def test_priors_that_were_selected_on_test_images_are_not_mixed_with_others(stored, capsys):
    before = contents(stored / "compared")
    assert _run(COMPARE) == 2
    assert "data.test: expected null" in capsys.readouterr().err
    assert contents(stored / "compared") == before


def without_prior(words: list[str]) -> list[str]:
    """The words of a comparison without the options of a prior and of distances."""
    options = ("--prior", "--samples", "--features")
    at = [i for i, word in enumerate(words) if word in options]
    return [word for i, word in enumerate(words) if not {i, i - 1} & {*at}]


def methods(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Those of comparison.json, without what depends on the clock."""
    found = json.loads(files["comparison.json"])["methods"]
    for method in found:
        for name in ("train_images_per_second", "encode_images_per_second"):
            method.pop(name)
    return found
