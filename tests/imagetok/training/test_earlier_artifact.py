"""The artifact of a finished run stays when the run goes on to more steps."""

import shutil

from scripted import exported, finished, load, run_scripted

BITS = {2: 3.0, 4: 2.0, 6: 1.0, 8: 4.0}


def test_the_artifact_of_an_earlier_end_is_kept_and_said(tmp_path, caplog):
    run_scripted(tmp_path, BITS, steps=4)
    first = exported(tmp_path)
    caplog.clear()
    run_scripted(tmp_path, BITS, steps=6)
    assert load(tmp_path / "artifact-step-00000004" / "weights.safetensors") == first
    assert exported(tmp_path) != first
    assert finished(tmp_path) == {"step": 6, "exported": 6}
    (said,) = [m for m in caplog.messages if "kept the one of step 4" in m]
    assert str(tmp_path / "artifact-step-00000004") in said


def test_the_same_weights_are_not_kept_twice(tmp_path):
    run_scripted(tmp_path, BITS, steps=6)
    first = exported(tmp_path)
    run_scripted(tmp_path, BITS, steps=8)  # the best step is still 6
    assert exported(tmp_path) == first
    assert not list(tmp_path.glob("artifact-*"))


def test_a_kill_between_the_export_and_its_record_loses_neither(tmp_path):
    run_scripted(tmp_path, BITS, steps=4)
    record = (tmp_path / "finished.json").read_bytes()
    first = exported(tmp_path)
    run_scripted(tmp_path, BITS, steps=6)
    second = exported(tmp_path)
    (tmp_path / "finished.json").write_bytes(record)
    run_scripted(tmp_path, BITS, steps=6)
    assert load(tmp_path / "artifact-step-00000004" / "weights.safetensors") == first
    assert exported(tmp_path) == second
    # killed between the renaming and the export
    (tmp_path / "finished.json").write_bytes(record)
    shutil.rmtree(tmp_path / "artifact")
    run_scripted(tmp_path, BITS, steps=6)
    assert load(tmp_path / "artifact-step-00000004" / "weights.safetensors") == first
    assert exported(tmp_path) == second
