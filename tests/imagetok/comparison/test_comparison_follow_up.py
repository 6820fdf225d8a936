"""Steps after training: in order, not again, and no further for a cell that failed."""

import sys

from imagetok.comparison.follow_up import FollowUp, Step, run_follow_up
from imagetok.comparison.jobs import Failure
from imagetok.comparison.plan import Cell
from imagetok.stopping import StopRequest


def test_cells_take_the_steps_in_order_but_for_what_is_done_or_failed(tmp_path):
    cells = [
        Cell(name, 1, 2, tmp_path / f"{name}.yaml", tmp_path / name, tmp_path / f"{name}.log")
        for name in ("good", "bad", "done")
    ]
    for cell in cells:
        cell.folder.mkdir()
    (tmp_path / "done" / "one").touch()

    def step(name: str) -> Step:
        code = (
            "import pathlib, sys; place = pathlib.Path(sys.argv[1]); "
            "sys.exit('error: no luck') if place.parent.name == 'bad' else place.touch()"
        )
        return Step(
            name,
            lambda cell: [sys.executable, "-c", code, str(cell.folder / name)],
            lambda cell: (cell.folder / name).exists(),
        )

    when_done = (tmp_path / "done" / "one").stat().st_mtime_ns
    follow_up = FollowUp([step("one"), step("two")], lambda cell: {}, lambda cell: {})
    with StopRequest() as stop:
        failures = run_follow_up(follow_up, cells, [{}], stop)
    assert failures == {cells[1]: Failure(1, "no luck")}
    made = {cell.method: sorted(p.name for p in cell.folder.iterdir()) for cell in cells}
    assert made == {"good": ["one", "two"], "bad": [], "done": ["one", "two"]}
    assert (tmp_path / "done" / "one").stat().st_mtime_ns == when_done
