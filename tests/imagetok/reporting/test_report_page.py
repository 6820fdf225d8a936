import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import imagetok.reporting
from imagetok.errors import ConfigError, InputError
from imagetok.reporting import (
    Commands,
    Figure,
    Numbers,
    Pictures,
    ReportSection,
    Table,
    Text,
    curves,
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
    # 3 pictures, 2 commands; what is an alternative text is an attribute.
    assert page.text.count(HOSTILE) == 5 + 1 + 3 + 4 + 1 + 3 + 2
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
    assert re.findall("<code>(.*?)</code>", html) == ["a --b", "c"]


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
        (lambda: Figure(b"<html>", "x"), InputError, "SVG or PNG"),
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
