"""Progress: in a notebook's cell, and silence."""

import logging
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from imagetok import progress
from imagetok.progress import ProgressBar, progress_shown


@pytest.fixture
def notebook(monkeypatch) -> list[object]:
    """What a notebook's cell was given to show: the bar, and then its updates."""
    shown: list[object] = []

    def display(bar: object, display_id: bool) -> object:
        assert display_id
        shown.append(bar)
        return SimpleNamespace(update=shown.append)

    module = SimpleNamespace(display=display)
    monkeypatch.setattr(progress, "Console", lambda **options: Console(force_jupyter=True))
    monkeypatch.setattr(progress, "import_module", lambda name: module)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_PICTURES", 0.0)
    return shown


def test_a_notebook_shows_a_bar_and_its_last_state(notebook):
    with ProgressBar("work", 3) as bar:
        for done in (1, 2, 3):
            bar.update(done, f"loss {done}")
    assert len(notebook) == 5
    assert len(set(map(id, notebook))) == 1
    task = notebook[0].tasks[0]  # pyright: ignore[reportAttributeAccessIssue]
    assert (task.completed, task.total, task.fields["values"]) == (3, 3, "loss 3")


def test_a_notebook_shows_nothing_where_nothing_is_asked_for(notebook):
    with progress_shown(False), ProgressBar("work", 3) as bar:
        bar.update(3)
    with ProgressBar("work", 3, enabled=False) as bar:
        bar.update(3)
    assert notebook == []


def test_a_bar_moves_on_and_large_rates_are_written_out(notebook, monkeypatch):
    with ProgressBar("work", 9000, rate_unit="images/s") as bar:
        monkeypatch.setattr(bar, "_begun", bar._begun - 3)
        bar.advance(3000)
        bar.advance(6000)
    task = notebook[0].tasks[0]  # pyright: ignore[reportAttributeAccessIssue]
    assert task.completed == 9000
    assert task.fields["values"][0] in "23" and task.fields["values"].endswith(" images/s")
    assert "e+" not in task.fields["values"]


def test_lines_are_left_out_and_warnings_kept_for_who_set_up_logging(caplog):
    caplog.set_level(logging.INFO, "imagetok")
    logger = logging.getLogger("imagetok")
    with progress_shown(False):
        logger.info("quiet")
        with progress_shown(True):  # inside a silent call
            logger.info("quiet too")
        logger.warning("loud")
    logger.info("shown")
    assert [record.getMessage() for record in caplog.records] == ["loud", "shown"]


def test_nothing_is_printed_where_logging_is_not_set_up():
    code = (
        "import logging; from imagetok.progress import *; log = logging.getLogger('imagetok')\n"
        "with progress_shown(False): log.warning('hidden')\n"
        "log.warning('seen')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr.strip()) == ("", "seen")
