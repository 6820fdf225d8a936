"""Text of others in a model card and a comparison: it is shown, and is nothing else."""

from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from imagetok import artifacts
from imagetok.comparison.table import markdown_row, rule
from imagetok.io.markdown import block, plain

HOSTILE = (
    "a | b",
    "a \\| b",
    "x\n---\nlicense: evil\n---\n",
    "x\r\n\r\n# Title",
    "<script>alert(1)</script>",
    "<!-- ",
    "&lt;b&gt; &#124;",
    "![x](https://evil.example/x.png)",
    "[x](javascript:alert(1))",
    "https://evil.example",
    "a\u2028| b\x0b\x85",
    "```\n</code>",
)


def tokens(text: str) -> Counter[str]:
    """How many parts of each kind a page has, as GitHub's table dialect reads it."""
    page = MarkdownIt("commonmark").enable("table").parse(text)
    inner = [child for token in page for child in token.children or []]
    return Counter(token.type for token in (*page, *inner))


def shown(text: str) -> list[str]:
    """The text of each cell of the page's table."""
    page = MarkdownIt("commonmark").enable("table").parse(text)
    return ["".join(c.content for c in t.children or []) for t in page if t.type == "inline"]


def one_table(name: str) -> str:
    return "\n".join([markdown_row(["measure", "value"]), rule(2), markdown_row([name, "1"]), ""])


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_one_cell_of_text(name: str) -> None:
    page = one_table(name)
    assert len(page.splitlines()) == 3 and "://" not in page
    found = tokens(page)
    assert found["td_open"] == found["th_open"] == 2 and found["table_open"] == 1
    assert not found.keys() & {"html_inline", "html_block", "link_open", "image", "heading_open"}


@given(st.text(alphabet="\n\r\u2028 |<>&*`[]()\\\\!:/#-ab", max_size=30))
def test_any_text_stays_in_its_cell(name: str) -> None:
    found = tokens(one_table(name))
    assert found["td_open"] == 2 and found["tr_open"] == 2
    assert not found.keys() & {"html_inline", "link_open", "image"}


@pytest.mark.parametrize("name", ["digits test psnr_db", "psnr_db (test)", "MSE x 10^3 ± 2 [1, 2]"])
def test_an_ordinary_name_stays_as_it_is(name: str) -> None:
    assert plain(name) == name


def test_special_characters_are_shown() -> None:
    assert shown(one_table("a | b < c & d"))[2] == "a | b < c & d"


@given(st.text(alphabet="`\n ab~", max_size=30))
def test_a_block_of_code_ends_where_it_should(text: str) -> None:
    found = tokens("\n".join(["before", "", *block(text, "sh"), "", "after"]))
    assert found["fence"] == 1 and found["paragraph_open"] == 2


@pytest.mark.parametrize("name", HOSTILE)
def test_a_card_keeps_its_front_matter(tmp_path: Path, name: str) -> None:
    table = artifacts.metrics_table({name: 1.0, "mse": 2.0})
    artifacts.write_card(tmp_path, "edvae tokenizer", ["image-tokenizer"], [table])
    _, front, body = (tmp_path / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {"library_name": "imagetok", "tags": ["image-tokenizer"]}
    assert tokens(body)["td_open"] == 4 and tokens(body)["heading_open"] == 1
