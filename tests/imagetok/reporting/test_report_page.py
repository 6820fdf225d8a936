import base64
import io
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import LOOKS, open_browser
from PIL import Image
from representative import slow_but

import imagetok.reporting
from imagetok.errors import ConfigError, InputError
from imagetok.reporting import (
    Commands,
    Details,
    Figure,
    Meanings,
    Numbers,
    Pictures,
    ReportSection,
    Table,
    Text,
    curves,
    figures,
    render,
    write_report,
)
from imagetok.reporting.page import show

HOSTILE = "<script src='https://example.org/x.js'>&\"</script>"
IMAGES = torch.randint(
    0, 256, (5, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and all text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def every_block(word: str) -> list[ReportSection]:
    drawn = curves({word: ([0, 1], [1, 2])}, word, word)
    blocks = (
        Text(word),
        Numbers([(word, word, word), ("count", 12345, "")]),
        Table([word, "number"], [[word, 1.5], [word, None]], word),
        Figure(drawn, word, word),
        Pictures(IMAGES, 3, [word, "second"], ["a", word, "c"], word),
        Commands([word, "imagetok --help"], word),
        Meanings({word: word}),
        Details(word, [Text(word)]),
    )
    return [ReportSection(word, blocks), ReportSection("Second", [])]


def test_nothing_is_loaded_from_outside():
    html = render(HOSTILE, every_block(HOSTILE), HOSTILE)
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in html
    assert "@import" not in html
    policy = page.all("meta")[1]["content"]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_user_text_is_escaped_and_shown_as_given():
    html = render(HOSTILE, every_block(HOSTILE), HOSTILE)
    assert "<script" not in html
    page = Page(html)
    # title twice, subtitle, contents, heading, and: 1 text, 3 number, 4 table, 1 figure,
    # 3 pictures, 2 commands, 2 meanings, 2 details; what is an alternative text is an attribute.
    assert page.text.count(HOSTILE) == 5 + 1 + 3 + 4 + 1 + 3 + 2 + 2 + 2
    assert HOSTILE in [image["alt"] for image in page.all("img")]


def test_the_same_sections_give_the_same_bytes(tmp_path):
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, "Title", every_block("word"), subtitle="of the day")
    written = (tmp_path / "a.html").read_bytes()
    assert written == (tmp_path / "b.html").read_bytes()
    assert written.decode() == render("Title", every_block("word"), "of the day")
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.html", "b.html"]


def test_the_contents_lead_to_every_section():
    page = Page(render("Title", every_block("First")))
    links = [link["href"] for link in page.all("a")]
    assert links == [f"#{section['id']}" for section in page.all("section")]
    assert len(links) == 2


def test_pictures_are_embedded_at_their_own_pixels():
    page = Page(render("Title", [ReportSection("S", [Pictures(IMAGES, 3)])]))
    embedded = [image["src"].partition(",")[2] for image in page.all("img")]
    opened = [np.array(Image.open(io.BytesIO(base64.b64decode(e)))) for e in embedded]
    assert np.array_equal(np.stack(opened).transpose(0, 3, 1, 2), IMAGES.numpy())
    assert all(image["class"] == "enlarged" for image in page.all("img"))
    assert [image["alt"] for image in page.all("img")] == [f"image {i}" for i in range(1, 6)]


def test_pictures_larger_than_the_page_are_not_enlarged():
    page = Page(render("Title", [ReportSection("S", [Pictures(np.zeros((1, 1, 200, 200)), 1)])]))
    assert "class" not in page.all("img")[0]


def test_figures_are_embedded_as_they_are():
    drawn = curves({"a": ([0, 1], [1, 2])}, "x", "y")
    [image] = Page(render("Title", [ReportSection("S", [Figure(drawn, "a line")])])).all("img")
    kind, _, content = image["src"].partition(";base64,")
    assert kind == "data:image/svg+xml"
    assert base64.b64decode(content) == drawn


def test_commands_carry_no_prompt_when_copied():
    html = render("Title", [ReportSection("S", [Commands(["a --b", "c"])])])
    lines = re.findall("<code>(.*?)</code>", html)
    assert [re.sub("</?span>", "", line) for line in lines] == ["a --b", "c"]


def test_best_cells_are_marked_for_the_eye_and_for_a_screen_reader():
    table = Table(["", "a", "b"], [["x", "1", "2"], ["y", "3", "3"]], best={(0, 1), (1, 1), (1, 2)})
    html = render("Title", [ReportSection("S", [table])])
    cells = re.findall(r'<td class="(.*?)"><div>(.*?)</div></td>', html)
    marked = [cell.removesuffix('<span class="unseen"> (best)</span>') for _, cell in cells]
    assert [("best" in kind, cell) for (kind, _), cell in zip(cells, marked, strict=True)] == [
        (True, "1"), (False, "2"), (True, "3"), (True, "3")
    ]  # fmt: skip
    assert html.count("(best)") == 3


def test_labels_are_shown_and_part_of_the_alternative_texts():
    pictures = Pictures(IMAGES, 3, ["one", "two"], ["cat", "dog", ""], empty={4})
    html = render("Title", [ReportSection("S", [pictures])])
    alts = [image["alt"] for image in Page(html).all("img")]
    assert alts == ["one, cat", "one, dog", "one", "two, cat"]  # the last image is left out
    assert re.findall("<th[^>]*><div>(.*?)<", html) == ["cat", "dog", "one", "two"]


def test_adjacent_figures_stand_side_by_side():
    drawn = Figure(curves({"a": ([0, 1], [1, 2])}, "x", "y"), "a line")
    html = render("Title", [ReportSection("S", [drawn, drawn, Text("between"), drawn])])
    groups = html.split('<div class="figures">')[1:]
    assert [group.count("<img") for group in groups] == [2, 1]


def test_the_head_says_what_was_measured_on_what():
    html = render("Title", [], "What it is", "180 images of digits:test")
    head = re.sub(r"\s*<.*?>\s*", "|", html.partition("<header>")[2].partition("</header>")[0])
    assert [text for text in head.split("|") if text] == [
        "Title", "What it is", "180 images of digits:test"
    ]  # fmt: skip


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2, from 1 to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1, 2], ids=["light", "dark", "print"])
def test_text_has_the_contrast_of_wcag_aa(scheme):
    style = resources.files("imagetok.reporting").joinpath("style.css").read_text()
    rules = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]
    colour = dict(re.findall(r"--([\w-]+): (#\w{6})", rules))
    for ink in ("ink", "quiet", "accent"):
        for ground in ("page", "card", "code"):
            assert contrast(colour[ink], colour[ground]) >= 4.5, (ink, ground)
    assert contrast(colour["best-ink"], colour["best"]) >= 4.5
    if scheme < 2:  # text in figures
        of_notes = [*figures._OF_NOTES, figures.INK, figures._QUIET]
        texts = [figures._IN_THE_DARK[c] for c in of_notes] if scheme else of_notes
        assert all(contrast(text, colour["page"]) >= 4.5 for text in texts)


def long_page() -> list[ReportSection]:
    """Sections with wide content: six methods, long names, long commands, many images."""
    drawn = Figure(curves({"a": ([0, 1], [1, 2])}, "x", "y"), "a line", "A caption.")
    names = [f"a-rather-long-name-of-a-method-{i}" for i in range(6)]
    row = ["a measure", *("0.12345 ± 0.00012" for _ in names)]
    table = Table(["", *names], [row], "A caption", best={(0, 6)})
    images = torch.zeros(20, 3, 32, 32, dtype=torch.uint8)
    pictures = Pictures(images, 10, ["original", "decoded"], ["automobile"] * 10)
    command = "imagetok compare " + " ".join(f"some/folder/{name}.yaml" for name in names)
    return [
        ReportSection("Figures", [drawn, drawn]),
        ReportSection("Numbers", [Numbers([(name, 1.5, name) for name in names]), table]),
        ReportSection("Pictures", [pictures, Details("More", [pictures, table])]),
        ReportSection("Command", [Commands([command], "again")]),
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_report(path, "A title of one line", long_page(), "What it is", "Measured on 20 images")
    return path.as_uri()


@pytest.mark.parametrize(("width", "dark"), slow_but([(390, True), (1440, False)], LOOKS))
def test_a_page_fits_a_phone_and_uses_a_wide_screen(written, width, dark):
    with open_browser() as browser:
        browser.look(width, 900, dark)
        browser.open(written)
        assert browser.faults_of_layout(width) == []
        tops = browser.run(
            "[...document.querySelectorAll('.drawn')].map(e => e.getBoundingClientRect().top)"
        )
        assert (tops[0] == tops[1]) == (width == 1440)  # two columns on a wide screen


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("<div style='width: 2000px'>x</div>", "the page scrolls sideways"),
        ("<img src='data:image/png;base64,' alt='nothing'>", "nothing is not drawn"),
        ("<img src='data:image/png;base64,'>", "an image has no alternative text"),
        ("<p style='font-size: 9px'>x</p>", "P. is small"),
        ("<h3>x</h3><h1>y</h1>", "not one h1"),
    ],
)
def test_faults_of_a_layout_are_found(written, tmp_path, fault, expected):
    page = Path(written.removeprefix("file://")).read_text()
    (tmp_path / "page.html").write_text(page.replace("<main>", f"<main>{fault}"))
    with open_browser() as browser:
        browser.look(1440, 900)
        browser.open((tmp_path / "page.html").as_uri())
        assert expected in browser.faults_of_layout(1440)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "\N{EN DASH}"),
        (True, "yes"),
        (12345, "12,345"),
        (np.int64(7), "7"),
        (0.123456, "0.1235"),
        (np.float32(21.5), "21.5"),
        (123456.7, "123,457"),
        (1e-6, "1e-06"),
        (float("nan"), "nan"),
        ("3 min", "3 min"),
    ],
)
def test_values_are_shown_as_a_reader_wants_them(value, shown):
    assert show(value) == shown


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Table(["a", "b"], [[1, 2], [3]]), ConfigError, "row 1 has 1 cells"),
        (lambda: Figure(b"<html>", "x"), InputError, "expected the bytes of an SVG"),
        (lambda: Pictures(torch.zeros(3, 4, 4), 1), InputError, r"found shape \(3, 4, 4\)"),
        (lambda: Pictures(IMAGES, 0), ConfigError, "columns >= 1"),
        (lambda: Pictures(IMAGES, 3, ["one"]), ConfigError, "need 2 row_labels or none, found 1"),
        (lambda: Pictures(IMAGES, 3, (), ["a"]), ConfigError, "need 3 column_headers or none"),
    ],
)
def test_blocks_that_cannot_be_shown_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_every_public_name_loads():
    for name in imagetok.reporting.__all__:
        assert getattr(imagetok.reporting, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = imagetok.reporting.nothing
