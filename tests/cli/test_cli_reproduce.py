"""`imagetok reproduce`: tables and figures of papers at a few steps, on stand-ins of their data."""

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import check_layout, open_browser
from PIL import Image
from safetensors.torch import save_file

import prior
from cli.main import _run
from imagetok import configs
from imagetok.comparison import follow_up, runner
from imagetok.comparison.subprocesses import Command
from imagetok.config import dump_yaml
from imagetok.durable import write_bytes
from imagetok.errors import ConfigError
from imagetok.evaluation.cifar_resnet import CIFARResNet
from imagetok.named_configs import find_figure
from imagetok.signals import StopRequest
from imagetok.training.metrics_log import read_json_lines
from prior.papers.reproduction import Reproduction
from prior.papers.request import request_for
from prior.papers.trials import make_plan
from prior.trial_priors import prior_folder

SHAPES = "data={source: shapes, count: 48, test_count: 16}"
SMALL = [
    *(SHAPES, "train.steps=2", "train.batch_size=4", "train.evaluate_every=1", "train.workers=0"),
    "tokenizer.network.width=16",
]
FIG_3 = "papers/edvae/fig-3"


def record(out: Path, name: str) -> dict[str, Any]:
    return json.loads((out / name.rpartition("/")[2] / "record.json").read_text())


def without_command(stored: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stored.items() if key != "command"}


def times_of(out: Path) -> dict[Path, int]:
    """When the files of the runs were written, without the logs, which are only opened."""
    return {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*.safetensors")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Fig. 3 of the EdVAE paper, by two seeds."""
    out = tmp_path_factory.mktemp("papers") / "edvae"
    found = prior.reproduce(FIG_3, out, seeds=[1, 2], set=SMALL, device="cpu", progress=False)
    assert found.exit_code == 0
    return out


def test_the_numbers_are_those_of_the_runs_beside_the_papers(made):
    stored = record(made, FIG_3)
    (row,) = stored["rows"]
    assert row["expected"] == {"perplexity": "420.33 ± 4.49"} and row["seeds"] == [1, 2]
    logs = [
        read_json_lines(made / "runs" / "cifar10" / "edvae" / f"seed-{seed}" / "metrics.jsonl")[-1]
        for seed in (1, 2)
    ]
    for column, measure in (("perplexity", "perplexity_batch128"), ("uncertainty", "uncertainty")):
        values = [log[measure] for log in logs]
        assert row["found"][column]["values"] == values
        assert row["found"][column]["mean"] == pytest.approx(np.mean(values))
        assert row["found"][column]["std"] == pytest.approx(np.std(values, ddof=1))
    table = (made / "fig-3" / "table.md").read_text()
    assert "Columns named paper: EdVAE paper, Tables 1 to 4." in table  # Fig. 3 prints none
    assert "420.33 ± 4.49" in table and "Not the paper's settings: seeds 1,2" in table
    assert "train.steps=2" in stored["command"] and str(made) not in stored["command"]
    with Image.open(made / "fig-3" / "cifar10.png") as picture:
        assert picture.width > 500
    page = (made / "fig-3" / "report.html").read_text()
    assert "420.33" in page and "CIFAR-10: mean over the seeds" in page


def test_the_page_follows_the_readers_mode(made):
    """Its plots stand on the ground of the page, in light and in dark, and fit a phone."""
    page = made / "fig-3" / "report.html"
    check_layout(page)
    with open_browser() as browser:
        for dark, ground in ((False, (251, 251, 250)), (True, (20, 23, 27))):
            browser.look(390, 900, dark)
            browser.open(page.as_uri())
            corners = "[...document.querySelectorAll('.drawn')].map(e => e.getBoundingClientRect())"
            (place,) = browser.run(f"{corners}.map(b => [Math.ceil(b.x) + 1, Math.ceil(b.y) + 1])")
            with Image.open(io.BytesIO(browser.screenshot())) as picture:
                assert picture.convert("RGB").getpixel(tuple(place)) == ground


def test_made_again_it_trains_nothing_and_is_the_same(made, capsys):
    before, stored = times_of(made), record(made, FIG_3)
    words = [word for text in SMALL for word in ("--set", text)]
    command = ["reproduce", FIG_3, "--out", str(made), "--seeds", "1,2", *words]
    assert _run([*command, "--device", "cpu"]) == 0
    assert times_of(made) == before and record(made, FIG_3) == stored
    assert "paper 420.33 ± 4.49, found" in capsys.readouterr().out


def test_a_drawing_of_an_earlier_call_is_not_kept_beside_another_record(made):
    """Only the drawings of the data sets in record.json are there."""
    stale = made / "fig-3" / "cifar10.png"
    figure = find_figure("papers/edvae/fig-4")
    assert {"cifar10", "celeba"} <= figure.data.keys()
    (made / "fig-4").mkdir()
    (made / "fig-4" / "celeba.png").write_bytes(stale.read_bytes())
    found = prior.reproduce(
        figure.name, made, only=["cifar10", "edvae"], seeds=[1], set=SMALL, device="cpu",
        progress=False,
    )  # fmt: skip
    assert found.pictures().keys() == {"cifar10"}


def test_another_figure_of_the_paper_trains_only_what_is_missing(made):
    before = times_of(made)
    found = prior.reproduce(
        "papers/edvae/fig-2a", made, seeds=[1], set=SMALL, device="cpu", progress=False
    )
    after = times_of(made)
    assert {path: after[path] for path in before} == before
    new = {path.relative_to(made / "runs").parts[1] for path in after if path not in before}
    assert new == {"dvae"}
    assert found.record.drawn["cifar10"].keys() == {"dVAE, step 2", "EdVAE, step 2"}
    page = (found.folder / "report.html").read_text()
    for numbers in found.record.drawn["cifar10"].values():
        assert f"{numbers['mean entropy, nats']:.4g}" in page
        assert 0 < numbers["mean entropy, nats"] <= np.log(512) + 1e-6


def test_only_the_steps_that_are_kept_for_it_are_drawn(tmp_path):
    """Not those of the newest checkpoints, which are there as well."""
    settings = [*SMALL, "train.steps=3", "train.checkpoint_every=1", "train.keep_checkpoints=[1]"]
    found = prior.reproduce(
        "papers/edvae/fig-2a", tmp_path, only=["edvae"], seeds=[1], set=settings, device="cpu",
        progress=False,
    )  # fmt: skip
    steps = (tmp_path / "runs" / "cifar10" / "edvae" / "seed-1" / "checkpoints").iterdir()
    assert sorted(path.name for path in steps) == [f"step-{i:08d}" for i in (1, 2, 3)]
    assert found.record.drawn["cifar10"].keys() == {"EdVAE, step 1"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "train.steps=3"], "train.steps: 2 stored, 3 requested"),
        (["--only", "cake"], "expected a data set or method of papers/edvae/fig-3: cifar10, edvae"),
        (["--seeds", "1,1"], "expected different seeds"),
        (["--seeds", "one"], "expected whole numbers >= 0 as in 42,1773,1, found one"),
        (["--set", "tokenizer.cake=1"], "tokenizer.cake: unknown key"),
        (["--set", "seed=3"], "--set seed: papers/edvae/fig-3 sets seed; choose --seeds"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(made, words, says, capsys):
    before = times_of(made)
    small = [word for text in SMALL for word in ("--set", text)]
    assert _run(["reproduce", FIG_3, "--out", str(made), "--device", "cpu", *small, *words]) == 2
    assert says in capsys.readouterr().err
    assert times_of(made) == before


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("fig-d10", {"set": ["objective.weights.kl.end=1"]}, "it is what the figure varies"),
        ("fig-d10", {"set": {"objective.weights": {"kl": 1}}}, "it is what the figure varies"),
        ("table-3", {"prior_set": {"data.test": "codes"}}, "each prior has its own"),
        ("table-3", {"num_samples": 0}, "--samples: expected 1 or more, found 0"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(tmp_path, name, changes, says):
    with pytest.raises(ConfigError, match=says):
        prior.reproduce(f"papers/edvae/{name}", tmp_path / "out", **changes)


def test_the_recorded_command_has_no_path():
    request = request_for(
        find_figure(FIG_3),
        settings=["data={source: folder, root: /a}", "data.root=a/b", "a.b=~/c", "a.c={d: ../e}"],
        prior_settings=["a.d=/f", "a.e=user/name"],
        features=["inception=/g/h.pt"],
    )
    assert shlex.split(request.command())[3:] == [
        *("--set", "data=...", "--set", "data.root=...", "--set", "a.b=...", "--set", "a.c=..."),
        *("--prior-set", "a.d=...", "--prior-set", "a.e=user/name", "--features", "inception=h.pt"),
    ]


def test_a_prior_of_other_settings_is_refused_before_anything_is_trained(tmp_path):
    settings = {"set": SMALL, "prior_set": SMALL_PRIORS["edvae"], "seeds": [1], "only": ["edvae"]}
    plan = make_plan(
        request_for(
            find_figure("papers/edvae/table-3"), only=["edvae", "cifar10"], seeds=[1],
            settings=SMALL, prior_settings=SMALL_PRIORS["edvae"],
        ),
        tmp_path,
    )  # fmt: skip
    (trial,), stored = plan.trials(), plan.priors["cifar10"]
    own = {"seed": 1, "tokenizer": "own", "data": stored.data.model_copy(update={"source": "own"})}
    path = prior_folder(trial) / "config.yaml"
    write_bytes(path, dump_yaml(stored.model_copy(update=own)).encode())
    plan.write_configs()
    settings["prior_set"] = [*SMALL_PRIORS["edvae"], "train.steps=3"]
    with pytest.raises(ConfigError, match=r"train.steps: 2 stored, 3 requested"):
        prior.reproduce(
            "papers/edvae/table-3", tmp_path, **settings | {"only": ["edvae", "cifar10"]}
        )
    assert not trial.folder.exists()


def test_damaged_and_missing_pieces_are_named(made, tmp_path, capsys):
    """Entropies that were stored, and the checkpoints that figures of training are made of."""
    out = tmp_path / "out"
    shutil.copytree(made, out)
    words = [word for text in SMALL for word in ("--set", text)]
    command = ["reproduce", "papers/edvae/fig-2a", "--out", str(out), "--seeds", "1", *words]
    command += ["--only", "edvae", "--device", "cpu"]
    run = out / "runs" / "cifar10" / "edvae" / "seed-1"
    assert _run(command) == 0
    stored = run.with_name("seed-1-later") / "entropies.json"
    whole = stored.read_bytes()
    for damage in (b"[]", b'{"identity": {}, "steps": {"2": 1}}', whole[:-9]):
        stored.write_bytes(damage)
        assert _run(command) == 3 and str(stored) in capsys.readouterr().err
    stored.write_bytes(whole)
    log = run / "metrics.jsonl"
    log.rename(tmp_path / "metrics.jsonl")
    assert _run(command) == 3
    assert "expected an evaluation at step 2, found none" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").rename(log)
    for path in (run / "checkpoints").iterdir():
        shutil.rmtree(path)
    for figure in ("fig-2a", "fig-2b"):
        command[1] = f"papers/edvae/{figure}"
        assert _run(command) == 3
        assert "expected an intact checkpoint, found none" in capsys.readouterr().err


def test_missing_images_are_named_before_anything_is_trained(tmp_path, capsys):
    settings = ["--set", f"data.root={tmp_path / 'none'}"]
    assert _run(["reproduce", "papers/edvae/fig-5", "--out", str(tmp_path / "a"), *settings]) == 3
    assert "church_outdoor" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_missing_weights_are_named_before_anything_is_trained(tmp_path, capsys):
    settings = [word for text in SMALL for word in ("--set", text)]
    weights = f"cifar-resnet={tmp_path / 'none.safetensors'}"
    command = ["reproduce", "papers/edvae/table-3", "--only", "cifar10", "--features", weights]
    assert _run([*command, "--out", str(tmp_path / "a"), *settings, "--device", "cpu"]) == 3
    assert "none.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_names_are_listed_and_shown(capsys):
    assert _run(["configs", "papers/kaokore"]) == 0
    assert "papers/kaokore/fig-2 " in capsys.readouterr().out
    assert _run(["configs", "papers/edvae/table-1"]) == 0
    shown = capsys.readouterr().out
    assert "imagetok reproduce papers/edvae/table-1" in shown
    assert "perplexity: 371.33 ± 2.86" in shown
    assert "cifar10, celeba, lsun-church, vqvae-ema" in shown  # names for --only


def write_kaokore(root: Path, count: int) -> None:
    """Files in the form of the authors' download.py, with noise as pictures."""
    noise = np.random.default_rng(0)
    (root / "images_256").mkdir(parents=True)
    lines = ["image,gender,status,set"]
    for i in range(count):
        part = "test" if i % 4 == 3 else "train"
        lines.append(f"{i:08d}.jpg,{i % 2},{i % 4},{part}")
        pixels = noise.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((256, 256))
        picture.save(root / "images_256" / f"{i:08d}.jpg")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def kaokore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "kaokore"
    write_kaokore(root, 40)
    return root


def test_maps_by_label_need_no_training(kaokore, tmp_path):
    """Fig. 1 of the Kaokore report."""
    settings = [f"data.root={kaokore}"]
    found = prior.reproduce(
        "papers/kaokore/fig-1", tmp_path / "out", set=settings, device="cpu", progress=False
    )
    assert found.exit_code == 0 and not found.record.rows
    assert found.record.drawn["kaokore"].keys() == {"gender", "status"}
    assert 0.4 < found.record.drawn["kaokore"]["gender"]["share of the most common label"] <= 0.67
    assert (found.folder / "kaokore.png").is_file()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A feature network in place of the papers', whose weights are not there."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    save_file(CIFARResNet(1).state_dict(), path)
    return f"cifar-resnet={path}"


PRIOR = ["train.steps=2", "train.batch_size=4", "patience=null"]
SMALL_PRIORS = {
    "edvae": [*PRIOR, "model.width=16", "model.blocks=1", "model.units=1", "model.heads=2"],
    "sqvae": [*PRIOR, "model.width=8", "model.layers=2", "model.head=16"],
    "kaokore": [
        *PRIOR,
        "model.top={kind: pixelsnail, width: 16, blocks: 1, units: 1, heads: 2}",
        "model.bottom={kind: pixelsnail, width: 16, blocks: 1, units: 1, attention: false}",
        "model.context={width: 16, units: 1}",
    ],
}
FEW = {
    "edvae": {"cifar10": ["edvae", "dvae"], "celeba": ["edvae"], "lsun-church": ["edvae"]},
    "sqvae": {"celeba": ["vae", "sqvae-i"], "mnist": ["sqvae-i"]},
    "kaokore": {"kaokore": ["vqvae", "vqvae2"]},
}
"""The data sets and methods that are run; the others' configs are built by `test_configs`."""


def in_this_process(
    jobs: Sequence[Command], slots: object, stop: StopRequest, watch: object
) -> dict[str, int]:
    """Run the same commands one after another without starting Python for each."""
    del slots, watch
    codes = {}
    for job in jobs:
        words = list(job.command[job.command.index("--stop-with-parent") + 1 :])
        with job.log.open("a") as log, redirect_stdout(log), redirect_stderr(log):
            codes[job.name] = _run(words)
        stop.check_here()
    return codes


def test_other_settings_of_a_prior_are_refused_before_anything_is_written(made):
    def draw(*settings: str) -> Reproduction:
        small = [*SMALL_PRIORS["edvae"], *settings]
        return prior.reproduce(
            "papers/edvae/fig-9", made, only=["cifar10"], seeds=[1], set=SMALL, prior_set=small,
            num_samples=4, device="cpu", progress=False,
        )  # fmt: skip

    assert draw().exit_code == 0
    stored = (made / "fig-9" / "record.json").read_bytes()
    with pytest.raises(ConfigError, match=r"train.batch_size: 4 stored, 3 requested(.|\n)*-later"):
        draw("train.batch_size=3")
    assert (made / "fig-9" / "record.json").read_bytes() == stored
    assert draw("train.workers=1").exit_code == 0  # does not change the result


@pytest.mark.slow
@pytest.mark.parametrize("paper", FEW)
def test_every_table_and_figure_is_made(paper, tmp_path, network, kaokore, monkeypatch):
    for module in (runner, follow_up):
        monkeypatch.setattr(module, "run_commands", in_this_process)
    settings = SMALL if paper != "kaokore" else [f"data.root={kaokore}", *SMALL[1:]]
    settings = [*settings, "train.keep_checkpoints=[1, 2]"]
    for name in [name for name in configs().figures if name.startswith(f"papers/{paper}/")]:
        figure = find_figure(name)
        data = next(one for one in FEW[paper] if one in figure.data)
        methods = [one for one in FEW[paper][data] if one in figure.sheet.methods]
        if len(figure.runs) > 20:
            methods = methods[:1]
        found = prior.reproduce(
            name,
            tmp_path / "out",
            only=[data, *methods],
            seeds=[3],
            set=settings,
            prior_set=SMALL_PRIORS[paper] if figure.priors else (),
            features=[network] if figure.sheet.features else (),
            num_samples=8 if figure.priors else None,
            device="cpu",
            progress=False,
        )
        assert found.exit_code == 0, (name, found)
        assert {row.data for row in found.record.rows} <= {data}
        for row in found.record.rows:
            missing = [c for c in figure.sheet.columns if c not in row.found and c in row.expected]
            printed = [c for c in missing if row.expected[c] != "\N{EN DASH}"]
            assert printed == [], (name, row.what)
        if {"FID", "precision"} & set(figure.sheet.columns):
            table = (found.folder / "table.md").read_text()
            assert "found in cifar-resnet" in table
            assert "8 samples of the prior from all 48 images" in table
        check_layout(found.folder / "report.html")
        is_drawn = figure.sheet.kind != "table"
        assert (found.folder / f"{data}.png").is_file() == is_drawn, name


@pytest.mark.slow
def test_a_stopped_command_goes_on(tmp_path, made):
    """Stopped by a signal while it trains, the same command makes the same record."""
    words = [word for text in SMALL for word in ("--set", text)]
    command = [sys.executable, "-m", "imagetok", "reproduce", FIG_3, "--seeds", "1,2", *words]
    command += ["--out", str(tmp_path / "out"), "--jobs", "1", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, env=environment)
    run = tmp_path / "out" / "runs" / "cifar10" / "edvae" / "seed-1"
    begun = time.monotonic()
    while not (run / "config.yaml").is_file() and time.monotonic() - begun < 120:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 143
    assert not (tmp_path / "out" / "fig-3").exists()
    assert (
        subprocess.run(command, env={**os.environ, "PYTHONPATH": str(Path.cwd())}).returncode == 0
    )
    assert without_command(record(tmp_path / "out", FIG_3)) == without_command(record(made, FIG_3))
