"""Going on touches nothing before all that it needs was read, and never starts over in silence."""

import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from disk_faults import in_fork
from representative import slow_but
from test_resume import assert_same_run, config

from cli.main import _explain
from imagetok.errors import CheckpointError, DivergedError, ImagetokError, ResourceError
from imagetok.training.tokenizer import train_tokenizer

NOBODY = 65534


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of five steps of twelve, and one of all twelve."""
    folder = tmp_path_factory.mktemp("resume")
    train_tokenizer(config(steps=5), folder / "begun")
    train_tokenizer(config(), folder / "whole")
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained / "begun", tmp_path / "run")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that resuming could lose."""
    names = ("metrics.jsonl", "timing.jsonl", "finished.json", "config.yaml")
    files = [folder / n for n in names] + sorted((folder / "checkpoints").rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.is_file()}


def loop(path: Path) -> None:
    """A link to itself, which nobody can read, not even root."""
    path.symlink_to(path.name)


def nowhere(path: Path) -> None:
    """A link to a disk that is away."""
    path.symlink_to("/mnt/away")


PLACES = [
    ("checkpoints", loop),
    ("checkpoints/step-00000005", loop),
    ("checkpoints/step-00000005", nowhere),
    ("checkpoints/step-00000005", Path.touch),
    ("checkpoints/step-00000005/model.safetensors", loop),
    ("checkpoints/step-00000004/optimizer.bin", loop),
]


@pytest.mark.parametrize(("name", "replace"), PLACES)
def test_checkpoints_that_cannot_be_read_are_refused_and_kept(run, name, replace):
    before = contents(run)
    aside = (run / name).rename(run.parent / "aside")
    replace(run / name)
    with pytest.raises(ResourceError, match="cannot be read"):
        train_tokenizer(config(), run, resume=True)
    (run / name).unlink()
    aside.rename(run / name)
    assert contents(run) == before


def test_checkpoints_of_another_user_are_refused_and_kept(trained):
    """As of `sudo` or a container: the folder is there, and may not be listed."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o777)
        run = shutil.copytree(trained / "begun", Path(temporary) / "run")
        before = contents(run)
        for path in (run, *run.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        (run / "checkpoints").chmod(0o300)  # what is named may be opened, not what is listed

        def resume() -> None:
            os.seteuid(NOBODY)
            with pytest.raises(ResourceError, match="Permission denied"):
                train_tokenizer(config(), run, resume=True)

        assert in_fork(resume) == 0
        assert contents(run) == before


@pytest.mark.parametrize("every", slow_but([9], [9, 1]))
def test_no_failing_read_empties_a_log(trained, tmp_path, every):
    """Listings, openings and looks at a file of the checkpoints, each of which fails once."""
    codes = []
    while not codes or codes[-1] == 5:
        run = shutil.copytree(trained / "begun", tmp_path / f"run{len(codes)}")
        before = contents(run)
        codes.append(resume_with_failure(run, every * len(codes)))
        assert contents(run) == before
        shutil.rmtree(run)
    assert codes[-1] == 0
    assert len(codes) > 20 / every


def resume_with_failure(run: Path, place: int) -> int:
    """Go on in a run while the read at this place fails; the exit code."""
    places = count()

    def fail(path: object) -> None:
        if str(path).startswith(str(run / "checkpoints")) and next(places) == place:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with before_reading(fail):
        try:
            train_tokenizer(config(steps=5), run, resume=True)
        except (OSError, ImagetokError) as error:
            return _explain(error)[1]
    return 0


@contextmanager
def before_reading(call: Callable[[object], None]) -> Iterator[None]:
    """Call ahead of each listing, opening and stat."""

    def first(genuine: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: object, *arguments: Any, **options: Any) -> Any:
            call(path)
            return genuine(path, *arguments, **options)

        return wrapped

    with (
        patch.object(Path, "iterdir", first(Path.iterdir)),
        patch.object(Path, "open", first(Path.open)),
        patch.object(Path, "stat", first(Path.stat)),
        patch.object(os, "scandir", first(os.scandir)),
    ):
        yield


def test_a_log_without_its_checkpoints_is_no_fresh_start(trained, run):
    before = contents(run)
    aside = (run / "checkpoints").rename(run.parent / "aside")
    for make in (lambda: None, (run / "checkpoints").mkdir):
        make()
        with pytest.raises(CheckpointError, match=r"reached step 5, found none"):
            train_tokenizer(config(), run, resume=True)
    (run / "checkpoints").rmdir()
    aside.rename(run / "checkpoints")
    assert contents(run) == before
    train_tokenizer(config(), run, resume=True)
    assert_same_run(trained / "whole", run, 12)


def test_a_run_that_ended_before_its_first_checkpoint_starts_over_and_says_so(tmp_path, caplog):
    run = tmp_path / "run"
    diverging = {"kind": "constant", "value": 1e38}
    with pytest.raises(DivergedError):
        train_tokenizer(config(learning_rate=diverging, clip_norm=None), run)
    assert (run / "metrics.jsonl").stat().st_size
    caplog.set_level(logging.WARNING, "imagetok")
    train_tokenizer(config(steps=2), run, resume=True)
    assert "starting again at step 0 and deleting its log of" in caplog.text
    train_tokenizer(config(steps=2), tmp_path / "fresh")
    assert_same_run(tmp_path / "fresh", run, 2)


def test_a_finished_run_whose_checkpoints_were_removed_stays_as_it_is(trained, tmp_path):
    run = shutil.copytree(trained / "whole", tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    before = contents(run)
    again = train_tokenizer(config(), run, resume=True)
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert again.items() <= log[-1].items()
    with pytest.raises(CheckpointError, match="reached step 12, found none"):
        train_tokenizer(config(steps=20), run, resume=True)
    assert contents(run) == before
