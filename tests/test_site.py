"""The documentation site: it builds strictly, fetches nothing, and its search works from disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from browser import open_browser

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs", reason='the site needs `pip install -e ".[docs]"`')
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def sections(site: Path) -> list[dict[str, str]]:
    return json.loads((site / "search" / "search_index.json").read_text())["docs"]


@pytest.mark.parametrize(
    "term, page",
    [
        ("least-recently-used", "how-to/diagnose.html"),
        ("--samples-per-shard", "reference/commands.html#encode"),
        ("push_to_hub", "reference/python/tokenizers.html"),
    ],
)
def test_the_index_finds_pages_options_and_methods(site, term, page):
    found = [s["location"] for s in sections(site) if term in s["text"] or term in s["title"]]
    assert any(location.startswith(page) for location in found), found


def test_the_notebook_and_its_pictures_are_a_page(site):
    text = (site / "tutorial" / "pictures.html").read_text()
    assert text.count("data:image/png;base64") >= 4
    assert ">generate<" in text and (site / "tutorial" / "pictures.ipynb").exists()


def test_every_page_opens_from_disk_and_fetches_nothing(site):
    pages = sorted(set(site.rglob("*.html")) - {site / "404.html"})  # which only a server sends
    assert len(pages) > 40
    with open_browser() as browser:
        for page in pages:
            browser.open(page.as_uri())
        assert browser.errors == []
        foreign = [url for url in browser.requests if not url.startswith(("file:", "data:"))]
        assert foreign == []


def test_the_search_works_from_disk(site):
    field = "document.querySelector('.md-search__input')"
    results = "[...document.querySelectorAll('.md-search-result__link')]"
    with open_browser() as browser:
        browser.look(1280, 800)
        browser.open((site / "index.html").as_uri())
        for term, page in [
            ("perplexity", "measures.html"),
            ("fingerprint", "files.html"),
            ("import_codes", "codes.html"),
        ]:
            browser.run(f"{field}.focus()")
            browser.run(f"{field}.value = '{term}'")
            for event in ("input", "keyup"):
                browser.run(f"{field}.dispatchEvent(new Event('{event}', {{bubbles: true}}))")
            browser.wait(f"{results}.some(a => a.href.includes('{page}'))")
        assert browser.errors == []
