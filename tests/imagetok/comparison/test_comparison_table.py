"""Tables, pictures and derived measures from stored values."""

import io
import math
import re

import numpy as np
import pytest
import torch
from browser import LOOKS, open_browser
from PIL import Image
from representative import slow_but

from imagetok.comparison.figures import Reconstructions, measures_figure, reconstruction_grid
from imagetok.comparison.page import write_page
from imagetok.comparison.results import Comparison, MethodResult, TrialResult, method_result
from imagetok.comparison.sweep_figure import sweep_figure
from imagetok.comparison.table import best_of, markdown, table_of
from imagetok.config import load_config
from imagetok.training.config import TokenizerRun


def trial(seed: int, **measures: float) -> TrialResult:
    return TrialResult(
        seed=seed, status="finished", measures=measures, curve=({"step": 4, **measures},)
    )


def method(name: str, trials: list[TrialResult], levels: int = 1, **more: object) -> MethodResult:
    measures = [c.measures for c in trials if c.status == "finished"]
    keys = measures[0] if measures else {}
    return MethodResult(
        name=name,
        trials=tuple(trials),
        config={},
        config_sha256="0" * 64,
        different={"train.steps": 4},
        mean={k: float(np.mean([m[k] for m in measures])) for k in keys},
        std={k: float(np.std([m[k] for m in measures], ddof=1)) for k in keys if len(measures) > 1},
        num_codes=(8,) * levels,
        **more,
    )


def test_mean_and_spread_are_those_of_the_finished_seeds():
    config = load_config("configs/digits/edvae.yaml", TokenizerRun)
    broken = TrialResult(seed=9, status="failed", reason="training diverged", measures={}, curve=())
    trials = [trial(5, mse=0.25, ssim=0.5), trial(6, mse=0.5), broken]
    found = method_result("a", config, trials, None, {}, {})
    assert found.mean == {"mse": 0.375}  # ssim is not of every seed
    assert found.std == {"mse": pytest.approx(0.125 * 2**0.5, rel=1e-12)}
    assert method_result("a", config, trials[:1], None, {}, {}).std == {}
    assert method_result("a", config, [broken], None, {}, {}).mean == {}


@pytest.fixture
def result() -> Comparison:
    flat = [
        trial(s, mse=s / 1e3, perplexity=2.0, codes_used=s, num_codes=8, bits_per_image=48)
        for s in (1, 3)
    ]
    deep = trial(
        1, mse=5e-3, perplexity_level0=3.0, perplexity_level1=4.0, codes_used_level0=5,
        codes_used_level1=6, num_codes_level0=8, num_codes_level1=8,
    )  # fmt: skip
    broken = TrialResult(seed=3, status="failed", reason="training diverged", measures={}, curve=())
    return Comparison(
        command="imagetok compare a.yaml", data="digits:test", num_images=180,
        train_identity="t", test_identity="u", seeds=(1, 3), machine={"processor": "P", "cores": 2},
        versions={"torch": "2"},
        methods=(
            method("flat", flat, parameters=12345),
            method("deep", [deep, broken], levels=2),
            method("lost", [broken, broken]),
        ),
    )  # fmt: skip


def test_the_table_holds_mean_spread_levels_and_failures(result):
    header, rows = table_of(result)
    flat, deep, lost = (dict(zip(header, row, strict=True)) for row in rows)
    assert flat["MSE x 10^3"] == f"2.00 ± {math.sqrt(2):.2f}"
    assert flat["bits per image, log2 K"] == "48"
    assert flat["parameters"] == "12,345" and flat["train.steps"] == "4"
    assert deep["MSE x 10^3"] == "5.00"
    assert deep["codes used"] == "level 0: 5; level 1: 6"
    assert (deep["seeds"], lost["seeds"]) == ("1, 1 failed", "2 failed")
    assert lost["MSE x 10^3"] == deep["bits per image, log2 K"] == "\N{EN DASH}"
    assert "SSIM" not in header and "mIoU" not in header  # no method has one
    page = markdown(result)
    assert "Failed: deep, seed 3: training diverged." in page
    assert "SSIM needs images of at least 11 x 11 pixels." in page
    widths = {line.count("|") for line in page.splitlines() if line.startswith("|")}
    assert widths == {len(header) + 1}


def test_label_maps_have_no_note_on_ssim_and_their_measures_are_defined(result):
    maps = method("maps", [trial(1, pixel_accuracy=0.5, miou=0.25)])
    result = result.model_copy(update={"methods": (maps,)})
    assert "SSIM" not in markdown(result)
    assert {"pixel_accuracy", "miou"} <= result.definitions.keys()


DISTANCES = {"measures": [], "networks": {"net": {}}, "num_samples": 30}
PRIOR = {"model": {"kind": "gpt"}, "train": {"steps": 4}, "export": "best", "patience": 3}
SPLITS = {
    "reference": {"data": "digits:train", "data_count": 20, "data_drawn_from": 1617},
    "selection": {"split": "train", "held_out": 0.05, "num_images": 81, "seed": ""},
    "prior_measured_on": {"split": "test", "num_images": 180},
}


def test_the_notes_say_on_which_images_priors_and_samples_were_measured(result):
    later = {**DISTANCES, "prior": PRIOR, **SPLITS}
    page = markdown(result.model_copy(update={"follow_up": later}))
    assert "30 samples of the prior from 20 of the 1,617 images of digits:train" in page
    assert "81 of the training images (a share of 0.05) are held out to select weights" in page
    assert "with a patience of 3" in page and "measured once on the 180 images" in page


def test_the_notes_on_an_earlier_comparison_say_that_test_images_selected(result):
    later = {**DISTANCES, "prior": PRIOR}
    page = markdown(result.model_copy(update={"follow_up": later}))
    assert "30 samples of the prior from the test images" in page
    assert "codes of the test split were its held-out codes" in page and "once" not in page


def test_the_figure_is_drawn_for_levels_failures_and_single_points(result):
    drawn = measures_figure(result)
    assert drawn == measures_figure(result)
    pixels = np.asarray(Image.open(io.BytesIO(drawn)).convert("RGB")).reshape(-1, 3)
    colours = {tuple(int(v) for v in pixel) for pixel in np.unique(pixels, axis=0)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours  # of flat and deep
    assert (0x00, 0x9E, 0x73) not in colours  # nothing of lost


def test_the_best_values_are_those_printed_as_best_with_ties(result):
    def of(name: str, sizes: tuple[int, ...] = (8,), **measures: float) -> MethodResult:
        found = method(name, [trial(1, num_codes=sizes[0], **measures)])
        return found.model_copy(update={"num_codes": sizes})

    three = (
        of("a", mse=2.0e-3, psnr_db=20.0, codes_used=8, ssim=0.5, perplexity=3, bits_per_image=48),
        of("b", mse=2.004e-3, psnr_db=21.0, codes_used=7, ssim=0.5, perplexity=4, bits_per_image=9),
        of("c", mse=3.0e-3, codes_used=8, ssim=0.5, perplexity=4),
    )
    best = best_of(result.model_copy(update={"methods": three}))
    assert best == {
        "MSE x 10^3": [0, 1],  # both are printed as 2.00
        "PSNR, dB": [1],
        "perplexity, test set": [1, 2],
        "codes used": [0, 2],
    }  # SSIM is the same for all, and bits per image are better in neither direction
    other = of("d", sizes=(16,), mse=1e-3, perplexity=9, codes_used=16)
    best = best_of(result.model_copy(update={"methods": (*three, other)}))
    assert best == {"MSE x 10^3": [3], "PSNR, dB": [1]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("fid", 0), ("rfid", 0), ("rkernel_net", 0), ("recall_net", 1), ("rprecision", 1)],
)
def test_the_better_distance_is_the_smaller_and_the_better_recall_the_larger(
    result, name, expected
):
    two = tuple(method(str(value), [trial(1, **{name: value})]) for value in (0.25, 0.5))
    later = {**DISTANCES, "measures": [name]}
    found = best_of(result.model_copy(update={"methods": two, "follow_up": later}))
    assert found == {name: [expected]}


def test_the_page_shows_pictures_first_and_marks_the_best(result, tmp_path):
    rows = {name: torch.zeros(2, 1, 8, 8) for name in ("original", "flat", "deep")}
    write_page(tmp_path / "report.html", result, Reconstructions(rows, ["cat", "dog"], []))
    html = (tmp_path / "report.html").read_text()
    titles = re.findall("<h2>(.*?)</h2>", html)
    assert titles == ["Reconstructions", "Measures", "Training", "Command"]
    assert 'alt="original, cat"' in html and 'alt="deep, dog"' in html
    assert re.findall(r'class=" best"><div>(.*?)<span', html) == [
        f"2.00\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{math.sqrt(2):.2f}"
    ]
    assert html.count("data:image/svg+xml") == 3  # error, perplexity, codes used


@pytest.mark.parametrize(("width", "dark"), slow_but([(390, False)], LOOKS))
def test_the_page_of_a_comparison_in_a_browser(result, tmp_path, width, dark):
    rows = {name: torch.zeros(12, 1, 8, 8) for name in ("original", "flat", "deep")}
    write_page(tmp_path / "report.html", result, Reconstructions(rows, ["a class"] * 12, []))
    with open_browser() as browser:
        browser.look(width, 900, dark)
        browser.open((tmp_path / "report.html").as_uri())
        assert browser.faults_of_layout(width) == []
        pictures = "[...document.querySelectorAll('.pictures img')]"
        sizes = browser.run(f"{pictures}.map(e => e.getBoundingClientRect().width)")
        assert len(sizes) == 36 and min(sizes) >= 64


def sized(
    kind: str, num_codes: int, code_dim: int, mse: float, perplexity: str = "perplexity_batch128"
) -> MethodResult:
    trials = [trial(s, mse=mse + s / 1e4, **{perplexity: num_codes / s}) for s in (1, 2)]
    quantizer = {"kind": kind, "num_codes": num_codes, "code_dim": code_dim}
    drawn = method(f"{kind}-{num_codes}-{code_dim}", trials)
    return drawn.model_copy(update={"config": {"tokenizer": {"quantizer": quantizer}}})


def test_codebook_sizes_are_drawn_where_methods_differ_in_them(result):
    assert sweep_figure(result) is None
    one = (sized("dvae", 64, 16, 3e-3), sized("edvae", 128, 16, 2e-3))
    assert sweep_figure(result.model_copy(update={"methods": one})) is None, "two methods, no sweep"
    more = (*one, sized("dvae", 128, 16, 2e-3), sized("dvae", 256, 16, 1e-3))
    both = (*more, sized("edvae", 128, 8, 2e-3))
    widths = []
    for methods in (more, both):
        drawn = sweep_figure(result.model_copy(update={"methods": methods}))
        assert drawn is not None
        widths.append(Image.open(io.BytesIO(drawn)).width)
    assert widths[1] == 2 * widths[0], "a pair of panels for K, and one for D"


def test_the_sweep_draws_the_perplexity_of_the_paper_or_else_that_of_an_earlier_version(result):
    def drawn(perplexity: str) -> bytes | None:
        methods = tuple(sized("dvae", k, 16, 2e-3, perplexity) for k in (64, 128))
        return sweep_figure(result.model_copy(update={"methods": methods}))

    assert drawn("perplexity") is None
    found, earlier = drawn("perplexity_batch128"), drawn("perplexity_batch128_all")
    assert found is not None and earlier is not None and found != earlier, "the labels differ"


def test_the_grid_names_its_rows():
    rows = {"original": torch.zeros(3, 1, 8, 8), "a long method's name": torch.ones(3, 1, 8, 8)}
    canvas = np.asarray(reconstruction_grid(rows).convert("L"))
    margin = canvas.shape[1] - (3 * 10 + 2) * 8
    assert (canvas[:, :margin] < 128).any(axis=1).reshape(2, -1).any(axis=1).all()  # two names
    pictures = canvas[:, margin:]
    assert (pictures[20:70, 20:70] == 0).all() and (pictures[100:150] == 255).all()


def test_a_hostile_name_of_a_method_is_text(result):
    evil = "a | b<script>\n```\n# x"
    renamed = result.methods[0].model_copy(update={"name": evil})
    command = "imagetok compare 'a\n```\n<script>.yaml'"
    changed = result.model_copy(
        update={"methods": (renamed, *result.methods[1:]), "command": command}
    )
    table, _, rest = markdown(changed).partition("\n\n")
    assert {line.count("|") for line in table.splitlines()} == {table.splitlines()[0].count("|")}
    assert "<script>" not in table and "&#60;script&#62;" in table
    assert rest.count("````") == 2 and rest.endswith(f"````sh\n{command}\n````\n")
