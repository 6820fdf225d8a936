"""One short comparison that the tests of the command line share, made once a session."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from cli.main import _run
from imagetok.config import read_yaml

DIGITS = Path(__file__).parents[2] / "configs" / "digits"
STEPS = 20
TINY = {
    "image": {"mode": "grey", "height": 12, "width": 12},
    "network": {"kind": "conv", "width": 8, "groups": 2, "blocks": 1, "residual_gain": 0.5,
                "init": "torch"},
}  # fmt: skip


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory, worker_id) -> Path:
    """A folder that all processes of this test session see."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def few_rounds() -> Iterator[None]:
    """Speed is measured of three steps, not of twenty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imagetok.comparison.speed._ROUNDS", 3)
        yield


@pytest.fixture(scope="session")
def words(shared_folder, few_rounds) -> list[str]:
    """`compare` without --out: a method, one without codes, and one whose rate is far too high."""
    folder = shared_folder / "configs"
    folder.mkdir(exist_ok=True)
    for name, kind, rate in [("a", "edvae", 1e-3), ("b", "vae", 1e-3), ("c", "dvae", 1e30)]:
        tree = read_yaml(DIGITS / f"{kind}.yaml")
        tree["tokenizer"] |= TINY
        tree["train"] |= {
            "steps": STEPS, "learning_rate": {"kind": "constant", "value": rate}, "log_every": 1,
            "evaluate_every": 8, "checkpoint_every": 6, "trackers": [], "batch_size": 8,
        }  # fmt: skip
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    paths = [str(folder / f"{name}.yaml") for name in "abc"]
    return ["compare", *paths, "--seeds", "5", "--device", "cpu"]


@pytest.fixture(scope="session")
def whole(words, shared_folder) -> Path:
    """What `words` make, uninterrupted, two cells at a time; not to be changed."""
    out, code = shared_folder / "whole", shared_folder / "code"
    with FileLock(shared_folder / "lock"):  # another worker may be making it
        if not code.exists():
            code.write_text(str(_run([*words, "--out", str(out), "--jobs", "2"])))
    assert code.read_text() == "6"
    return out
