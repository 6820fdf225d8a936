"""`imagetok report`: self-contained files whose numbers are the runs'."""

import base64
import dataclasses
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from browser import LOOKS, open_browser
from PIL import Image
from representative import slow_but
from torch.testing import assert_close

from cli.main import _run
from imagetok import Tokenizer
from imagetok.analysis.report import training_section
from imagetok.analysis.runs import names_of, open_sources
from imagetok.analysis.tokenizer_sections import decoded_single_codes
from imagetok.codes.shard import CodeBatch
from imagetok.evaluation.meanings import meanings_of
from imagetok.reporting import Figure, Text, curves
from imagetok.reporting.page import show
from prior.build import build_prior
from prior.completion import with_kept
from prior.config import GPTConfig, PriorConfig
from prior.report_folders import open_all
from prior.report_sections import completed_blocks

CONFIGS = Path(__file__).parent.parent.parent / "configs" / "digits"
TINY = ["tokenizer.network.width=8", "tokenizer.quantizer.num_codes=16", "train.steps=20"]
TINY_GPT = ["model.layers=1", "model.width=16", "model.heads=2", "train.steps=10"]
OFTEN = ["train.evaluate_every=10", "train.log_every=5", "train.trackers=[]"]


def train(name: str, out: Path, overrides: list[str]) -> None:
    words = ["train", str(CONFIGS / f"{name}.yaml"), "--out", str(out), "--device", "cpu"]
    assert _run(words + [w for one in [*overrides, *OFTEN] for w in ("--set", one)]) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Runs of an EdVAE, a VQ-VAE and a GPT, samples and measures, by the commands."""
    root = tmp_path_factory.mktemp("report")
    tokenizer = str(root / "edvae" / "tokenizer")
    train("edvae", root / "edvae", TINY)
    train("vqvae-ema", root / "vqvae", TINY)
    encode = ["encode", "--tokenizer", tokenizer, "--data", "digits:test"]
    assert _run([*encode, "--shards", str(root / "codes")]) == 0
    where = [f"data.source={root / 'codes'}", f"tokenizer={tokenizer}"]
    train("gpt", root / "gpt", [*where, "data.test=null", *TINY_GPT])
    draw = ["sample", "--prior", str(root / "gpt" / "prior"), "-n", "30", "--label", "3,5"]
    assert _run([*draw, "--out", str(root / "new")]) == 0
    measure = ["evaluate", "--tokenizer", tokenizer, "--data", "digits:test"]
    assert _run([*measure, "--out", str(root / "measures.json")]) == 0
    return root


class Page(HTMLParser):
    """Tags with their attributes, cells of tables, titles of sections."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.titles: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "h2":
            self.titles.append("")
        if tag in ("td", "th", "h2"):
            self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "h2":
            self.titles[-1] += data
        elif self._inside:
            self.rows[-1][-1] += data

    def images(self) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]

    def tables(self, corner: str) -> list[list[list[str]]]:
        """Tables whose first header is `corner`, header first."""
        starts = [i for i, (row) in enumerate(self.rows) if row[0] == corner]
        heads = {i for i, row in enumerate(self.rows) if row[0] in ("measure", "", "report")}
        ends = [min([j for j in heads if j > i] + [len(self.rows)]) for i in starts]
        return [self.rows[i:j] for i, j in zip(starts, ends, strict=True)]


def report(out: Path, *paths: Path, extra: tuple[str, ...] = ()) -> Page:
    assert _run(["report", *map(str, paths), "--out", str(out), "--device", "cpu", *extra]) == 0
    html = out.read_text()
    page = Page(html)
    check_alone(html, page)
    return page


def check_alone(html: str, page: Page) -> None:
    """Nothing is fetched, every picture is there, described and whole."""
    assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org/)", html)
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "srcset", "poster", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    assert page.images()
    for image in page.images():
        kind, _, content = image["src"].partition(";base64,")
        data = base64.b64decode(content, validate=True)
        if kind == "data:image/png":
            Image.open(io.BytesIO(data)).load()
        else:
            assert kind == "data:image/svg+xml" and data.startswith(b"<svg")
        assert image["alt"].strip()
    assert any(a.get("name") == "viewport" for t, a in page.tags if t == "meta")


def last_test(run: Path) -> dict[str, float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [r for r in records if r["split"] == "test"][-1]


def test_one_tokenizer(made, tmp_path):
    page = report(tmp_path / "a.html", made / "edvae")
    assert page.titles == [
        "Summary",
        "Reconstructions",
        "Encoder uncertainty",
        "Codes",
        "Training",
        "Configuration",
        "Measures",
        "Environment",
        "Commands",
    ]
    expected = last_test(made / "edvae")
    [table] = page.tables("measure")
    shown = dict(table[1:])
    for name in set(expected) - {"step", "split", "num_images"}:
        assert shown[name] == show(expected[name])
    alts = [image["alt"] for image in page.images()]
    for curve in ("mean squared error", "perplexity", "kl", "uncertainty K / S", "logits"):
        assert f"{curve} over training steps" in alts
    html = (tmp_path / "a.html").read_text()
    assert "data: digits:test" in html and "count: 180" in html
    assert f"imagetok train {made / 'edvae' / 'config.yaml'}" in re.sub("</?span>", "", html)


def test_every_measure_of_a_run_is_explained(made):
    for name in ("edvae", "vqvae", "gpt"):
        measures = last_test(made / name).keys() - {"step", "split", "num_images"}
        assert meanings_of(measures).keys() == measures


def test_a_measure_of_a_single_evaluation_is_no_curve(made):
    run = open_sources(names_of([made / "edvae"]), torch.device("cpu")).runs[0]
    once = dataclasses.replace(run, records=run.records[-1:])
    (block,) = training_section([once]).blocks
    assert isinstance(block, Text) and "no curves" in block.paragraph


def test_curves_are_what_was_logged(made):
    section = training_section(open_sources(names_of([made / "edvae"]), torch.device("cpu")).runs)
    lines = (made / "edvae" / "metrics.jsonl").read_text().splitlines()
    series = {}
    for name, split in (("training batches", "train"), ("held out", "test")):
        points = [(r["step"], r["mse"]) for r in map(json.loads, lines) if r["split"] == split]
        series[name] = tuple(map(list, zip(*points, strict=True)))
    assert series["held out"][0] == [10, 20] and series["training batches"][0] == [5, 10, 15, 20]
    drawn = curves(series, "step", "mean squared error", log=True)
    assert drawn in [block.image for block in section.blocks if isinstance(block, Figure)]


def test_several_runs_stand_side_by_side(made, tmp_path):
    page = report(tmp_path / "b.html", made / "edvae", made / "vqvae")
    labels = re.findall(r'<th scope="row"><div>(\w+)<', (tmp_path / "b.html").read_text())
    assert labels[:6] == ["original", "edvae", "vqvae"] * 2
    [table] = page.tables("measure")
    assert table[0] == ["measure", "edvae", "vqvae"]
    shown = {row[0]: row[1:] for row in table[1:]}
    both = [last_test(made / name) for name in ("edvae", "vqvae")]
    assert shown["mse"] == [show(one["mse"]) for one in both]
    assert shown["uncertainty"] == [show(both[0]["uncertainty"]), show(None)]
    assert "Encoder uncertainty of edvae" in page.titles
    assert "Encoder uncertainty of vqvae" not in page.titles  # it gives no probabilities


def test_a_prior_draws_and_completes(made, tmp_path):
    page = report(tmp_path / "c.html", made / "gpt", extra=("--samples", "2"))
    assert page.titles[1:3] == ["Samples", "Completions"]
    samples, completions = (tmp_path / "c.html").read_text().split("<h2>")[2:4]
    rows = re.findall(r'<th scope="row"><div>(\w)<', samples)
    assert rows == list("0123456789")
    assert samples.count('alt="7"') == 2
    held_out = re.findall(r'<th scope="row"><div>(\w)<', completions)
    assert len(held_out) == 5 and set(held_out) <= set(rows)  # the class of every image
    none = report(tmp_path / "d.html", made / "gpt", extra=("--samples", "0"))
    assert not {"Samples", "Completions"} & set(none.titles)


def test_a_prior_that_knows_no_images_without_a_class_completes_with_theirs(made, tmp_path):
    tokenizer = made / "edvae" / "tokenizer"
    where = [f"data.source={made / 'codes'}", f"tokenizer={tokenizer}", "data.test=null"]
    train("gpt", tmp_path / "gpt", [*where, *TINY_GPT, "label_dropout=0"])
    page = report(tmp_path / "a.html", tmp_path / "gpt", extra=("--samples", "1"))
    assert page.titles[2] == "Completions"
    assert "with the class of each image" in (tmp_path / "a.html").read_text()


def test_grids_that_no_rows_divide_are_told(made):
    """Half of 2 rows is no whole number of 3."""
    config = PriorConfig(
        tokenizer_fingerprint="0" * 64,
        num_codes=(5, 5),
        grids=((2, 2), (3, 3)),
        num_classes=0,
        model=GPTConfig(layers=1, heads=1, width=8),
    )
    batch = CodeBatch(
        (torch.zeros(1, 2, 2).long(), torch.zeros(1, 3, 3).long()),
        torch.tensor([-1]),
        torch.tensor([0]),
    )
    tokenizer = Tokenizer.from_pretrained(made / "edvae" / "tokenizer")
    [block] = completed_blocks(build_prior(config), tokenizer, batch)
    assert isinstance(block, Text) and "1 of 2 rows is no whole number" in block.paragraph


def test_the_measures_are_those_of_the_exported_step(made, tmp_path, capsys):
    shutil.copytree(made / "gpt", tmp_path / "gpt")
    metrics = tmp_path / "gpt" / "metrics.jsonl"
    best = last_test(made / "gpt") | {"step": 5, "bits_per_code": 1.25}
    metrics.write_text(json.dumps(best) + "\n" + metrics.read_text())
    (tmp_path / "gpt" / "finished.json").write_text('{"step": 10, "exported": 5}')
    [run] = open_all([tmp_path / "gpt"], torch.device("cpu")).sources.runs
    assert run.test == best
    page = report(tmp_path / "a.html", tmp_path / "gpt")
    [table] = page.tables("measure")
    assert dict(table[1:])["bits_per_code"] == show(1.25)
    assert "the measures are from step 5" in (tmp_path / "a.html").read_text()
    capsys.readouterr()
    assert _run(["inspect", str(tmp_path / "gpt"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["exported_step"], told["test"]) == (5, best)
    (tmp_path / "gpt" / "finished.json").write_text("[]")
    assert _run(["inspect", str(tmp_path / "gpt")]) == 3
    assert "finished.json: damaged" in capsys.readouterr().err


def test_a_tokenizer_and_its_prior_have_headlines_together(made, tmp_path):
    page = report(tmp_path / "a.html", made / "gpt", made / "edvae", extra=("--samples", "0"))
    html = (tmp_path / "a.html").read_text()
    assert page.titles[0] == "Summary" and "<h1>gpt and edvae</h1>" in html
    tiles = dict(re.findall(r'<div><dt>(.*?)</dt><dd class="value">(.*?)</dd>', html))
    test = last_test(made / "edvae")
    assert tiles["reconstruction PSNR, dB"] == show(test["psnr_db"])
    assert tiles["codes used"] == f"{test['codes_used']} of 16"
    assert tiles["bits per code"] == show(last_test(made / "gpt")["bits_per_code"])
    assert (tiles["training steps, edvae"], tiles["training steps, gpt"]) == ("20", "10")


def test_a_damaged_folder_of_samples_says_what_to_do(made, tmp_path, capsys):
    shutil.copytree(made / "new", tmp_path / "new")
    [record] = (tmp_path / "new").glob("*.json")
    record.write_text('{"prior": "a"}')
    assert _run(["report", str(tmp_path / "new"), "--out", str(tmp_path / "x.html")]) == 3
    error = capsys.readouterr().err
    assert f"omit {tmp_path / 'new'} from the report" in error and "sample again" in error


def test_fewer_samples_than_classes_are_shown(made, tmp_path):
    draw = ["sample", "--prior", str(made / "gpt" / "prior"), "-n", "4"]
    assert _run([*draw, "--out", str(tmp_path / "four")]) == 0
    page = report(tmp_path / "a.html", tmp_path / "four")
    assert [image["alt"] for image in page.images()] == ["0", "1", "2", "3"]


def test_a_folder_of_samples_is_shown_as_it_is(made, tmp_path):
    report(tmp_path / "e.html", made / "gpt", made / "new")
    samples = Page((tmp_path / "e.html").read_text().split("<h2>")[2])
    threes = [image for image in samples.images() if image["alt"] == "3"]
    assert len(threes) == 10
    for j, image in enumerate(threes):  # classes take turns: 3, 5, 3, ...
        shown = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
        with Image.open(made / "new" / f"{2 * j:06d}.png") as stored:
            assert shown.tobytes() == stored.convert("L").tobytes()
    alone = report(tmp_path / "f.html", made / "new")
    assert alone.titles[0] == "Samples in folder new"


def test_measures_of_another_identity_have_a_table_of_their_own(made, tmp_path):
    record = json.loads((made / "measures.json").read_text())
    record["measures"]["mse"] *= 2
    (tmp_path / "same.json").write_text(json.dumps(record))
    record["identity"]["count"] = 7
    (tmp_path / "other.json").write_text(json.dumps(record))
    paths = [made / "measures.json", tmp_path / "same.json", tmp_path / "other.json"]
    out = tmp_path / "g.html"
    assert _run(["report", *map(str, paths), "--out", str(out)]) == 0
    first, second = Page(out.read_text()).tables("measure")
    assert first[0] == ["measure", "measures.json", "same.json"]
    assert second[0] == ["measure", "other.json"]
    assert "count: 7" in out.read_text()


@pytest.mark.parametrize(
    ("where", "name", "value", "message"),
    [
        ("identity", "count", float("nan"), "expected finite measures"),
        ("measures", "mse", float("inf"), "expected finite measures"),
        ("measures", "mse", "0.1", "mse: expected a number, found '0.1'"),
        ("measures", "mse", [0.1], r"mse: expected a number, found [0.1]"),
        ("measures", "mse", True, "mse: expected a number, found True"),
    ],
)
def test_measures_that_are_no_numbers_are_refused(
    made, tmp_path, capsys, where, name, value, message
):
    record = json.loads((made / "measures.json").read_text())
    record[where][name] = value
    (tmp_path / "bad.json").write_text(json.dumps(record))
    words = ["report", str(tmp_path / "bad.json"), "--out", str(tmp_path / "x.html")]
    assert _run(words) == 3
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


@pytest.mark.slow
def test_a_run_that_goes_on_and_one_without_its_images(made, tmp_path):
    for name in ("unfinished", "moved"):
        shutil.copytree(made / "edvae", tmp_path / name)
    shutil.rmtree(tmp_path / "unfinished" / "tokenizer")
    config = tmp_path / "moved" / "config.yaml"
    moved = "source: folder\n  root: /nowhere/at/all\n  holdout: 0.1\n"
    text = re.sub(r"source: digits\n", moved, config.read_text())
    assert text != config.read_text()
    config.write_text(text)
    report(tmp_path / "h.html", tmp_path / "unfinished")
    assert "has not finished; the last logged step is 20" in (tmp_path / "h.html").read_text()
    report(tmp_path / "i.html", tmp_path / "moved")
    assert "cannot be opened here: /nowhere/at/all" in (tmp_path / "i.html").read_text()


@pytest.mark.slow
def test_a_damaged_picture_of_training_is_told_in_its_place(made, tmp_path):
    shutil.copytree(made / "edvae", tmp_path / "run")
    (last := tmp_path / "run" / "pictures" / "step-00000020.png").write_bytes(b"garbage")
    page = report(tmp_path / "a.html", tmp_path / "run")
    html = (tmp_path / "a.html").read_text()
    assert f"A picture saved in training cannot be shown: {last}" in html
    assert [i["alt"] for i in page.images()].count("step 10") == 8
    (tmp_path / "run" / "pictures" / "step-00000010.png").write_bytes(b"")
    Image.new("L", (30, 40)).save(last)
    report(tmp_path / "a.html", tmp_path / "run")
    assert "found 30 x 40 pixels" in (tmp_path / "a.html").read_text()


@pytest.mark.slow
def test_runs_on_other_images_have_sections_of_their_own_name(made, tmp_path):
    shutil.copytree(made / "edvae", tmp_path / "shapes")
    config = tmp_path / "shapes" / "config.yaml"
    config.write_text(config.read_text().replace("source: digits\n", "source: shapes\n"))
    page = report(tmp_path / "a.html", made / "edvae", tmp_path / "shapes")
    both = ["Reconstructions of edvae", "Reconstructions of shapes"]
    assert [title for title in page.titles if title.startswith("Reconstructions")] == both


def test_refusals(made, tmp_path, capsys):
    out = tmp_path / "x.html"
    (tmp_path / "empty").mkdir()
    cases = {
        (tmp_path / "nothing",): (3, "no such file or folder"),
        (tmp_path / "empty",): (3, "not a run folder; expected a run folder"),
        (made / "edvae" / "tokenizer",): (3, f"its run folder may be {made / 'edvae'}"),
        (made / "codes",): (3, "not a run folder; expected a run folder"),
        (made / "edvae" / "metrics.jsonl",): (3, "expected finite measures"),
        (made / "edvae", made / "gpt" / ".." / "edvae"): (2, "one of them twice"),
    }
    for paths, (code, message) in cases.items():
        assert _run(["report", *map(str, paths), "--out", str(out)]) == code
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
        assert not out.exists()


def test_a_run_that_logged_nothing_is_refused(made, tmp_path, capsys):
    shutil.copytree(made / "vqvae", tmp_path / "new")
    (tmp_path / "new" / "metrics.jsonl").write_text("")
    assert _run(["report", str(tmp_path / "new"), "--out", str(tmp_path / "x.html")]) == 3
    assert "has logged nothing yet" in capsys.readouterr().err


def test_what_a_code_paints_is_the_middle_of_a_full_grid(made):
    tokenizer = Tokenizer.from_pretrained(made / "edvae" / "tokenizer")
    painted = decoded_single_codes(tokenizer, [5, 9])
    whole = tokenizer.decode((torch.full((1, 4, 4), 9),))
    assert_close(painted[1], whole[0, :, 6:14, 6:14])  # cell (2, 2), and half a cell around
    assert not torch.allclose(painted[0], painted[1])


def test_kept_rows_are_kept():
    pixels = torch.arange(2 * 8 * 3, dtype=torch.uint8).view(2, 1, 8, 3).numpy()
    shown = with_kept(pixels, 0.5)
    assert (shown[1, :, :4] == pixels[0, :, :4]).all() and (shown[1, :, 4:] == 127).all()
    assert (shown[[0, 2]] == pixels).all()


@pytest.fixture(scope="module")
def everything(made, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("browser") / "all.html"
    report(out, made / "edvae", made / "vqvae", made / "gpt", made / "measures.json")
    return out


@pytest.mark.parametrize(("width", "dark"), slow_but([(390, True)], LOOKS))
def test_in_a_browser(everything, width, dark):
    with open_browser() as browser:
        browser.look(width, 800, dark)
        browser.open(everything.as_uri())
        assert browser.errors == []
        assert browser.requests[0] == everything.as_uri()
        assert all(url.startswith("data:") for url in browser.requests[1:])
        assert browser.run("document.querySelector('details').open") is False  # patches of codes
        assert browser.faults_of_layout(width) == []
        order = browser.run("[...document.querySelectorAll('h2')].map(e => e.innerText)")
        pictures = [i for i, title in enumerate(order) if title.startswith(("Rec", "Samples"))]
        assert pictures and max(pictures) < order.index("Training")  # pictures before curves
        picture = Image.open(io.BytesIO(browser.screenshot()))
        assert picture.width == width and picture.height > 2000
