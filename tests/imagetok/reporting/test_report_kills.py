"""`report` killed at any disk operation: the old page or the new one, and nothing beside it."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from disk_faults import at_every_operation, in_fork

from cli.main import _run
from imagetok.reporting import ReportSection, Text, write_report

RUN = Path(__file__).parents[2] / "stored" / "runs" / "edvae"


def kill_everywhere(root: Path, write: Callable[[Path], None]) -> int:
    """How many kills there were. Every page lies in a folder of its own."""
    whole = root / "whole" / "report.html"
    for point in range(10**6):
        page = root / f"{point:03d}" / "report.html"
        page.parent.mkdir()
        page.write_text("old")
        points = iter(range(10**6))

        def before(_: str, wanted: int = point, points=points) -> None:
            if next(points) == wanted:
                os.kill(os.getpid(), signal.SIGKILL)

        def killed(page: Path = page, before=before) -> None:
            with at_every_operation(before):
                write(page)

        end = in_fork(killed)
        if end == 0:
            assert page.read_bytes() == whole.read_bytes()
            return point
        assert end == -signal.SIGKILL
        assert page.read_bytes() in (b"old", whole.read_bytes()), f"point {point}"
        assert in_fork(lambda page=page: write(page)) == 0
        assert [p.name for p in page.parent.iterdir()] == ["report.html"], f"point {point}"
        assert page.read_bytes() == whole.read_bytes()
    raise AssertionError


def test_a_page_is_old_or_new(tmp_path: Path) -> None:
    def write(page: Path) -> None:
        write_report(page, "Title", [ReportSection("First", [Text("word " * 10**5)])])

    write(tmp_path / "whole" / "report.html")
    assert kill_everywhere(tmp_path, write) >= 5


@pytest.mark.slow
def test_a_report_is_old_or_new(tmp_path: Path, monkeypatch) -> None:
    def write(page: Path) -> None:
        monkeypatch.chdir(page.parent)  # its commands name the path
        words = ["report", str(RUN), "--out", "report.html", "--device", "cpu"]
        assert _run(words) == 0

    (tmp_path / "whole").mkdir()
    write(tmp_path / "whole" / "report.html")
    assert kill_everywhere(tmp_path, write) >= 5
