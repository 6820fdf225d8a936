"""Logs of any length are read in little memory, and every record of them is checked."""

import json
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest

from imagetok.errors import InputError
from imagetok.training import metrics_log
from imagetok.training.metrics_log import MAX_LINE, read_json_lines, read_thinned, records_of


def write(path: Path, count: int, evaluate_every: int = 100) -> list[dict]:
    """A log of so many steps."""
    records = []
    for step in range(1, count + 1):
        records.append({"step": step, "split": "train", "loss": 1 / step, "usage": None})
        if step % evaluate_every == 0:
            records.append({"step": step, "split": "test", "mse": 2 / step, "codes": 3})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return records


@pytest.fixture
def log(tmp_path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_a_usual_log_is_kept_whole(log):
    records = write(log, 2 * metrics_log.MANY)
    assert read_json_lines(log) == records
    assert read_thinned(log) == records


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_very_long_log_is_thinned_evenly(log, count):
    records = write(log, count)
    tracemalloc.start()
    found = read_thinned(log, kept=12_300)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 32 << 20
    assert found[-1] == records[-1]
    steps = [r["step"] for r in found if r["split"] == "train" and r["step"] != 12_300]
    assert metrics_log.MANY / 2 <= len(steps) <= 2 * metrics_log.MANY + 2
    apart = {b - a for a, b in pairwise(steps[:-1])}
    assert len(apart) <= 2  # two where the kept step was taken out
    assert [r for r in found if r["step"] == 12_300] == [r for r in records if r["step"] == 12_300]
    assert all(record in found for record in records if record["split"] == "test") or count > 20_000


def test_a_line_that_a_kill_cut_off_is_left_out(log):
    records = write(log, 3)
    log.write_bytes(log.read_bytes()[:-1])
    assert read_json_lines(log) == records[:-1]
    log.write_bytes(b"")
    assert read_json_lines(log) == []


ODD = {
    "[1]": "expected an object, found list",
    "{}": "step: expected a whole number",
    '{"step": true}': "step: expected a whole number",
    '{"step": -5}': "step: expected a whole number",
    '{"step": 1.5}': "step: expected a whole number",
    '{"step": 9007199254740992}': "step: expected a whole number",
    '{"step": 1, "mse": "low"}': "mse: expected a number or null, found str",
    '{"step": 1, "mse": [0.1]}': "mse: expected a number or null, found list",
    '{"step": 1, "split": 3.5, "mse": {"a": 1}}': "mse: expected a number or null, found dict",
    '{"step": 1, "mse": true}': "mse: expected a number or null, found bool",
    '{"step": 1, "mse": 1e400}': "mse: expected a finite number",
    '{"step": 1, "mse": 1' + "0" * 400 + "}": "mse: expected a finite number",
    '{"step": 1, "mse": NaN}': "not JSON",
    '{"step": 1, "mse": ' + "[" * 5000 + "]" * 5000 + "}": "nested too deep",
    '{"step": 1} {"step": 2}': "not JSON",
    "": "not JSON",
    '"' + "x" * MAX_LINE: "not JSON",
    '"' + "x" * 3 * MAX_LINE: "expected a line of at most",
}


@pytest.mark.parametrize("line", ODD, ids=range(len(ODD)))
def test_an_odd_record_is_refused_by_its_line(log, line):
    write(log, 2)
    log.write_bytes(log.read_bytes() + line.encode() + b'\n{"step": 3}\n')
    with pytest.raises(InputError, match=rf"metrics\.jsonl:3: .*{ODD[line]}"):
        for _ in records_of(log):
            pass
