"""Best weights and an early end, from a given sequence of measures."""

import itertools
import json
import math

import pytest
from representative import slow_but
from scripted import checkpoint_parts, evaluated, exported, finished, run_scripted

from imagetok.durable import commit_folder

FALLING = {step: 1 / step for step in range(1, 13)}
LOWER_AT_ENDS = {step: 9.0 - step / 100 if step % 2 else 10.0 for step in range(1, 13)}
"""Every evaluation that only an end brings about is lower than all that fall due."""
ENDS_AT_8 = {1: 0.5, 2: 5.0, 3: 0.5, 4: 3.0, 5: 2.0, 6: 3.5, 7: 1.0, 8: 3.0, 10: 1.0, 12: 0.0}
"""With a patience of 2: step 4 is the best, 6 and 8 are not below it."""


@pytest.mark.parametrize("export", ["best", "last"])
def test_the_lowest_measure_or_the_last_is_exported(tmp_path, export):
    bits = {2: 3.0, 4: 1.0, 6: 2.0, 8: 4.0}
    measures = run_scripted(tmp_path / "run", bits, steps=8, export=export)
    step = 4 if export == "best" else 8
    assert evaluated(tmp_path / "run") == [2, 4, 6, 8]
    assert measures == {"bits": bits[step]}
    assert finished(tmp_path / "run") == {"step": 8, "exported": step}
    kept = checkpoint_parts(tmp_path / "run", 8)
    assert exported(tmp_path / "run") == kept["best" if step == 4 else "model"]
    run_scripted(tmp_path / "short", bits, steps=4)  # the same weights, where training ended there
    assert kept["best"] == exported(tmp_path / "short")


def test_of_equal_measures_the_first_is_the_best(tmp_path):
    bits = {2: 3.0, 4: 1.0, 6: 1.0, 8: 1.0}
    run_scripted(tmp_path / "run", bits, steps=8)
    assert finished(tmp_path / "run") == {"step": 8, "exported": 4}


@pytest.mark.parametrize("ema_decay", slow_but([0.5], [None, 0.5]))
@pytest.mark.parametrize(
    ("bits", "patience"),
    [(FALLING, None), (LOWER_AT_ENDS, None), (LOWER_AT_ENDS, 3), (ENDS_AT_8, 2)],
    ids=["falling", "ends-are-lower", "ends-are-lower-patience", "early-end"],
)
def test_a_run_with_more_steps_is_the_one_that_never_stopped(tmp_path, bits, patience, ema_decay):
    """Bit for bit, wherever it was ended by its steps: nothing of that end stays behind."""

    def run(name: str, steps: int) -> dict:
        changes = {"patience": patience, "ema_decay": ema_decay, "evaluate_every": 2}
        return run_scripted(tmp_path / name, bits, steps=steps, **changes)

    whole = run("whole", 12)
    last = finished(tmp_path / "whole")["step"]
    assert last == (8 if bits is ENDS_AT_8 or patience == 3 else 12)
    for stop in (1, 3, 4, 7):
        name = f"stop{stop}"
        run(name, stop)
        assert finished(tmp_path / name)["step"] == stop
        assert run(name, 12) == whole
        assert finished(tmp_path / name) == finished(tmp_path / "whole")
        assert exported(tmp_path / name) == exported(tmp_path / "whole")
        assert checkpoint_parts(tmp_path / name, last) == checkpoint_parts(tmp_path / "whole", last)
        due = [s for s in evaluated(tmp_path / name) if s % 2 == 0]
        assert due == evaluated(tmp_path / "whole")


def test_an_end_that_brings_the_lowest_measure_is_exported_and_not_remembered(tmp_path):
    bits = {2: 4.0, 4: 3.0, 5: 1.0, 6: 2.0, 7: 9.0}
    assert run_scripted(tmp_path / "run", bits, steps=5) == {"bits": 1.0}
    assert finished(tmp_path / "run") == {"step": 5, "exported": 5}
    kept = checkpoint_parts(tmp_path / "run", 5)
    assert exported(tmp_path / "run") == kept["model"]
    assert kept["state"]["best"] == {"step": 4, "measures": {"bits": 3.0}, "since": 0}
    before = (tmp_path / "run" / "artifact" / "weights.safetensors").stat().st_mtime_ns
    assert run_scripted(tmp_path / "run", bits, steps=5) == {"bits": 1.0}  # already finished
    after = (tmp_path / "run" / "artifact" / "weights.safetensors").stat().st_mtime_ns
    assert after == before
    assert run_scripted(tmp_path / "run", bits, steps=7) == {"bits": 2.0}
    assert finished(tmp_path / "run") == {"step": 7, "exported": 6}


def test_a_run_without_an_evaluation_that_falls_due_exports_its_last(tmp_path):
    assert run_scripted(tmp_path / "run", {1: 4.0}, steps=1) == {"bits": 4.0}
    assert finished(tmp_path / "run") == {"step": 1, "exported": 1}
    kept = checkpoint_parts(tmp_path / "run", 1)
    assert "best" not in kept
    assert kept["state"]["best"] == {"step": 0, "measures": {}, "since": 0}


def test_more_patience_lets_an_ended_run_go_on(tmp_path):
    run_scripted(tmp_path / "run", ENDS_AT_8, steps=12, patience=2)
    assert finished(tmp_path / "run") == {"step": 8, "exported": 4}
    run_scripted(tmp_path / "run", ENDS_AT_8, steps=12)
    run_scripted(tmp_path / "whole", ENDS_AT_8, steps=12)
    assert finished(tmp_path / "run") == {"step": 12, "exported": 12}
    assert exported(tmp_path / "run") == exported(tmp_path / "whole")


def test_a_checkpoint_of_an_older_version_that_kept_such_an_evaluation_is_read(tmp_path):
    """Its `best` may be the step that it ended at."""
    bits = {2: 4.0, 4: 3.0, 5: 1.0, 6: 2.0}
    run_scripted(tmp_path / "run", bits, steps=5)
    path = tmp_path / "run" / "checkpoints" / "step-00000005"
    (path / "manifest.json").unlink()
    state = json.loads((path / "state.json").read_bytes())
    state["best"] = {"step": 5, "measures": {"bits": 1.0}, "since": 0}
    (path / "state.json").write_text(json.dumps(state))
    (path / "best.safetensors").write_bytes((path / "model.safetensors").read_bytes())
    staging = path.rename(path.with_name("staging"))
    commit_folder(staging, path)
    before = (tmp_path / "run" / "artifact" / "weights.safetensors").stat().st_mtime_ns
    assert run_scripted(tmp_path / "run", bits, steps=5) == {"bits": 1.0}  # already finished
    assert (tmp_path / "run" / "artifact" / "weights.safetensors").stat().st_mtime_ns == before
    assert run_scripted(tmp_path / "run", bits, steps=6) == {"bits": 1.0}
    assert finished(tmp_path / "run") == {"step": 6, "exported": 5}


def test_no_sequence_of_measures_and_ends_makes_a_difference(tmp_path):
    """All orders of three measures: what a plain search finds is exported."""
    for values in itertools.product((1.0, 2.0, math.pi), repeat=3):
        bits = dict(zip((2, 3, 4), values, strict=True))
        name = "-".join(f"{v:.0f}" for v in values)
        run_scripted(tmp_path / name, bits, steps=3)
        expected = 3 if bits[3] < bits[2] else 2
        assert finished(tmp_path / name) == {"step": 3, "exported": expected}
        assert run_scripted(tmp_path / name, bits, steps=4) == {"bits": min(bits[2], bits[4])}
        assert finished(tmp_path / name)["exported"] == (4 if bits[4] < bits[2] else 2)
