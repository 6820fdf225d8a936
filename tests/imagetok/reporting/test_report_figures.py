import itertools
import re
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch

from imagetok.errors import InputError
from imagetok.reporting.figures import bars, curves, sorted_usage, usage_histogram

FIGURES = {
    "curves": lambda: curves({"a": ([0, 1, 2], [3, 2, 1]), "b": ([0, 2], [1, 2])}, "step", "loss"),
    "log": lambda: curves({"a": ([0, 1], [1e-3, 10])}, "step", "loss", log=True),
    "usage": lambda: usage_histogram([5, 0, 3, 0]),
    "bars": lambda: bars({"one & <two>": 1.5, "three": -2.0}, "value"),
}


def words(figure: bytes) -> list[str]:
    return ["".join(e.itertext()) for e in ElementTree.fromstring(figure).iter() if is_text(e)]


def is_text(element) -> bool:
    return element.tag.endswith("}text")


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_numbers_give_the_same_svg(name):
    first, second = FIGURES[name](), FIGURES[name]()
    assert first == second
    assert first.startswith(b"<svg")
    assert b"DOCTYPE" not in first
    assert b"<metadata" not in first


@pytest.mark.parametrize("name", FIGURES)
def test_figures_load_nothing(name):
    for key, value in (
        pair for e in ElementTree.fromstring(FIGURES[name]()).iter() for pair in e.attrib.items()
    ):
        assert not key.endswith("href") or value.startswith("#")
        assert not re.search(r"url\((?!#)", value)


def test_the_users_matplotlib_settings_neither_matter_nor_change():
    plain = FIGURES["curves"]()
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False}):
        assert FIGURES["curves"]() == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_pictures_need_no_matplotlib_and_figures_no_pyplot():
    code = (
        "import sys; import imagetok.pictures, imagetok.reporting.sections\n"
        "assert not {'matplotlib', 'jinja2'} & sys.modules.keys()\n"
        "import imagetok.reporting.figures\nassert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_usage_counts_are_sorted_and_unused_codes_counted():
    ordered, unused = sorted_usage(torch.tensor([5, 0, 3, 0, 4]))
    assert ordered.tolist() == [5, 4, 3, 0, 0]
    assert unused == 2


def test_usage_histogram_states_unused_codes_and_the_uniform_line():
    shown = words(usage_histogram(np.array([1000, 0, 3000, 0])))
    assert "2 of 4 codes unused" in shown
    assert "equal use: 1,000 each" in shown


def test_a_codebook_never_used_can_be_drawn():
    assert "3 of 3 codes unused" in words(usage_histogram([0, 0, 0]))


def test_labels_names_and_values_are_text():
    assert {"step", "loss", "a", "b"} <= set(words(FIGURES["curves"]()))
    assert {"one & <two>", "three", "1.5", "-2", "value"} <= set(words(FIGURES["bars"]()))


def test_numbered_groups_have_a_tick_each():
    groups = np.arange(1, 11)
    shown = words(curves({"a": (groups, groups / 7)}, "group", "error"))
    assert [word for word in shown if word.isdigit()][:10] == [str(i) for i in groups]


def test_a_single_point_is_drawn_with_its_value_and_no_notes_overlap():
    values = [0.5123, 0.5124, 0.5125, 0.5126]
    single = {name: ([60], [value]) for name, value in zip("abcd", values, strict=True)}
    drawn = curves(single | {"line": ([10, 60], [0.1, 0.9123])}, "step", "loss")
    texts = [e for e in ElementTree.fromstring(drawn).iter() if is_text(e)]
    heights = {"".join(e.itertext()): float(e.attrib["y"]) for e in texts}
    notes = [heights[str(value)] for value in values]
    assert all(lower - higher >= 9 for lower, higher in itertools.pairwise(notes))
    assert "0.9123" not in heights  # the end of a line


def test_values_that_cannot_be_drawn_are_gaps():
    curves({"a": ([0, 1, 2], [1.0, float("nan"), 2.0])}, "step", "loss")
    curves({"a": ([0, 1], [0.0, -1.0])}, "step", "loss", log=True)
    curves({"empty": ([], [])}, "step", "loss")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: curves({}, "x", "y"), "at least one series"),
        (lambda: curves({"a": ([0, 1], [1])}, "x", "y"), "'a' has 2 x values and 1 y values"),
        (lambda: curves({"a": ([[0]], [[1]])}, "x", "y"), r"found shape \(1, 1\)"),
        (lambda: usage_histogram([1, -1]), "each >= 0"),
        (lambda: usage_histogram([]), "at least one code"),
        (lambda: bars({}, "x"), "at least one value"),
        (lambda: bars({"a": float("inf")}, "x"), "finite"),
    ],
)
def test_unusable_numbers_are_refused(draw, message):
    with pytest.raises(InputError, match=message):
        draw()
