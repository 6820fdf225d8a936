"""Steps after training: in order, not again, and no further for a cell that failed."""

import sys

from imagetok.comparison.follow_up import FollowUp, FollowUpStep, run_follow_up
from imagetok.comparison.plan import Trial
from imagetok.comparison.subprocesses import Failure
from imagetok.signals import StopRequest


def test_cells_take_the_steps_in_order_but_for_what_is_done_or_failed(tmp_path):
    trials = [
        Trial(name, 1, 2, tmp_path / f"{name}.yaml", tmp_path / name, tmp_path / f"{name}.log")
        for name in ("good", "bad", "done")
    ]
    for trial in trials:
        trial.folder.mkdir()
    (tmp_path / "done" / "one").touch()

    def step(name: str) -> FollowUpStep:
        code = (
            "import pathlib, sys; place = pathlib.Path(sys.argv[1]); "
            "sys.exit('error: no luck') if place.parent.name == 'bad' else place.touch()"
        )
        return FollowUpStep(
            name,
            lambda trial: [sys.executable, "-c", code, str(trial.folder / name)],
            lambda trial: (trial.folder / name).exists(),
        )

    when_done = (tmp_path / "done" / "one").stat().st_mtime_ns
    follow_up = FollowUp([step("one"), step("two")], lambda trial: {}, lambda trial: {})
    with StopRequest() as stop:
        failures = run_follow_up(follow_up, trials, [{}], stop)
    assert failures == {trials[1]: Failure(1, "no luck")}
    made = {trial.method: sorted(p.name for p in trial.folder.iterdir()) for trial in trials}
    assert made == {"good": ["one", "two"], "bad": [], "done": ["one", "two"]}
    assert (tmp_path / "done" / "one").stat().st_mtime_ns == when_done
