"""`train.keep_checkpoints`: checkpoints at the given steps stay, and nothing else changes."""

from pathlib import Path

from scripted import run_scripted

from imagetok.training.checkpoint import kept_weights
from imagetok.training.config import TrainConfig
from imagetok.training.run_folder import METRICS
from imagetok.training.schedules import Constant

BITS = dict.fromkeys(range(2, 21, 2), 1.0)


def steps_kept(folder: Path) -> list[int]:
    return sorted(kept_weights(folder / "checkpoints"))


def test_the_given_steps_stay_beside_the_newest_two(tmp_path):
    run_scripted(tmp_path / "a", BITS, steps=20, keep_checkpoints=(1, 7, 10, 40))
    run_scripted(tmp_path / "b", BITS, steps=20)
    assert steps_kept(tmp_path / "a") == [1, 7, 10, 15, 20]
    assert steps_kept(tmp_path / "b") == [15, 20]
    logs = [(tmp_path / run / METRICS).read_bytes() for run in ("a", "b")]
    assert logs[0] == logs[1]


def test_they_stay_when_a_run_goes_on(tmp_path):
    run_scripted(tmp_path, BITS, steps=10, keep_checkpoints=(1, 14))
    run_scripted(tmp_path, BITS, steps=20, keep_checkpoints=(1, 14))
    assert steps_kept(tmp_path) == [1, 14, 15, 20]


def test_a_config_without_the_key_is_stored_as_before(tmp_path):
    settings = {"steps": 4, "batch_size": 2, "learning_rate": Constant(value=0.1)}
    assert "keep_checkpoints" not in TrainConfig(**settings).model_dump()
    kept = TrainConfig(**settings, keep_checkpoints=(2, 3)).model_dump(mode="json")
    assert kept["keep_checkpoints"] == [2, 3]
