"""The same bytes: any number of threads and processes, stopped, killed and rerun, or not."""

import os
import signal
from pathlib import Path

import code_samples
import pytest
import torch
from code_samples import MICRO_BATCH, Watched, make_images, make_tokenizer, small_plan

from imagetok.codes.encode import encode_dataset, planned_size
from imagetok.codes.reader import open_codes
from imagetok.codes.schema import MANIFEST, PLAN
from imagetok.codes.verify import verify_codes
from imagetok.errors import ConfigError, ResourceError, ShardError, StoppedError

SCRIPT = Path(code_samples.__file__)


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture
def expected(encode) -> dict[str, bytes]:
    """What 21 images give in one process and one go."""
    return content(encode(21, "expected").folder)


def test_threads_change_no_byte(encode, expected):
    before = torch.get_num_threads()
    for threads in (2, 3):
        assert content(encode(21, f"threads-{threads}", threads=threads).folder) == expected
    assert torch.get_num_threads() == before  # the caller's own


@pytest.mark.parametrize("threads", [1, 2])
def test_loader_workers_change_no_byte(threads, expected, tokenizer, tmp_path):
    images = make_images(21)
    plan = small_plan(tokenizer, images)
    encode_dataset(tokenizer, images, tmp_path / "codes", plan, threads=threads, workers=2)
    assert content(tmp_path / "codes") == expected


def test_a_dataset_keeps_the_size_that_it_was_begun_with(tokenizer, tmp_path):
    images, folder = make_images(21), tmp_path / "codes"
    assert planned_size(tokenizer, folder, "float32", 21) == 64
    encode_dataset(tokenizer, images, folder, small_plan(tokenizer, images))
    assert planned_size(tokenizer, folder, "float32", 21, asked=128) == MICRO_BATCH


def test_memory_that_runs_out_halves_the_batches_and_loses_nothing(encode, tokenizer, monkeypatch):
    expected = encode(13, "expected").__getitems__(range(13))
    encode_images, sizes = tokenizer.encode, []

    def small_device(images, **options):
        if len(images) > 2:
            raise torch.OutOfMemoryError
        sizes.append(len(images))
        return encode_images(images, **options)

    monkeypatch.setattr(tokenizer, "encode", small_device)
    found = encode(13, "found")
    assert found.plan.micro_batch == MICRO_BATCH and set(sizes) == {1, 2}
    batch = found.__getitems__(range(13))
    # An image has nearly always the same codes in a batch of another size.
    assert (batch.codes[0] == expected.codes[0]).double().mean() > 0.9
    assert torch.equal(batch.keys, expected.keys)


def test_micro_batches_do_not_depend_on_what_else_is_encoded(encode):
    few, many = encode(SHARD := 8, "few"), encode(21, "many")
    same = [f"{0:05d}.tar", f"{0:05d}.json"]
    assert len(few) == SHARD
    for name in same:
        assert (few.folder / name).read_bytes() == (many.folder / name).read_bytes()


def test_precision_is_planned_and_used(tokenizer, encode):
    seen = []
    first = tokenizer.encoder.layers[0]
    first.register_forward_hook(lambda module, inputs, out: seen.append(out.dtype))
    for precision in ("float32", "bfloat16"):
        dataset = encode(13, precision, precision=precision)
        assert dataset.plan.precision == precision
        assert set(seen) == {getattr(torch, precision)}
        seen.clear()
    with pytest.raises(ConfigError, match="precision"):
        encode(13, "float32", precision="bfloat16")


def test_every_forward_pass_has_the_planned_size_and_one_thread(tokenizer, monkeypatch, encode):
    """What the last bit of a feature can depend on."""
    seen, encode_images = [], tokenizer.encode

    def spy(images, **options):
        seen.append((len(images), torch.get_num_threads()))
        return encode_images(images, **options)

    monkeypatch.setattr(tokenizer, "encode", spy)
    torch.set_num_threads(2)
    try:
        encode(13)
    finally:
        torch.set_num_threads(1)
    assert seen == [(MICRO_BATCH, 1)] * 5


def test_two_processes_give_the_bytes_of_one(expected, tokenizer_folder, start_python, tmp_path):
    process = start_python(
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2),
        *(SCRIPT, "encode", tokenizer_folder, tmp_path / "two", 21),
    )
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert content(tmp_path / "two") == expected


def test_a_signal_stops_it_and_a_rerun_continues(expected, tokenizer, tmp_path):
    images, reads = make_images(21), iter(range(100))
    plan = small_plan(tokenizer, images)

    def stop_in_the_second_shard() -> None:
        if next(reads) == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError) as stopped:
        watched = Watched(images, stop_in_the_second_shard)
        encode_dataset(tokenizer, watched, tmp_path / "codes", plan, threads=1)
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert sorted(content(tmp_path / "codes")) == ["00000.json", "00000.tar", PLAN]
    with pytest.raises(ShardError, match="unfinished: 1 of 3 shards"):
        open_codes(tmp_path / "codes")
    kept = (tmp_path / "codes" / "00000.tar").stat().st_mtime_ns
    encode_dataset(tokenizer, images, tmp_path / "codes", plan)
    assert content(tmp_path / "codes") == expected
    assert (tmp_path / "codes" / "00000.tar").stat().st_mtime_ns == kept


def test_a_rerun_of_a_finished_dataset_changes_nothing(encode, expected, tokenizer, tmp_path):
    def refuse() -> None:
        raise AssertionError("a finished dataset needs no image")

    images = make_images(21)
    plan = small_plan(tokenizer, images)
    report = encode_dataset(tokenizer, Watched(images, refuse), tmp_path / "expected", plan)
    assert (report.written, report.num_shards) == (21, 3)
    assert content(tmp_path / "expected") == expected


def test_a_rerun_makes_damaged_shards_again(expected, tokenizer, tmp_path, caplog):
    images, folder = make_images(21), tmp_path / "expected"
    (folder / "00001.tar").write_bytes((folder / "00001.tar").read_bytes()[:-512])
    (folder / "00002.json").write_text("{")
    encode_dataset(tokenizer, images, folder, small_plan(tokenizer, images))
    assert content(folder) == expected
    assert "00001.tar" in caplog.text and "00002.json" in caplog.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("samples_per_shard", 12),
        ("samples_per_block", 2),
        ("micro_batch", 4),
        ("source", "other:test"),
        ("num_inputs", 20),
        ("labelled", False),
    ],
)
def test_another_plan_in_the_folder_is_refused_by_its_fields(
    field, value, expected, tokenizer, tmp_path
):
    images = make_images(21)
    plan = small_plan(tokenizer, images, **{field: value})
    with pytest.raises(ConfigError, match=f"{field}: .* in the folder, {value!r} requested"):
        encode_dataset(tokenizer, images, tmp_path / "expected", plan)
    assert content(tmp_path / "expected") == expected


def test_another_tokenizer_in_the_folder_is_refused(expected, tmp_path):
    other, images = make_tokenizer(seed=1), make_images(21)
    with pytest.raises(ConfigError, match=r"tokenizer\.fingerprint"):
        encode_dataset(other, images, tmp_path / "expected", small_plan(other, images))
    assert content(tmp_path / "expected") == expected


def test_a_foreign_folder_is_refused_untouched(tokenizer, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    images = make_images(3)
    with pytest.raises(
        ConfigError, match=r"expected an empty folder or a code dataset, found thesis\.txt"
    ):
        encode_dataset(tokenizer, images, tmp_path, small_plan(tokenizer, images))
    assert content(tmp_path) == {"thesis.txt": b"mine"}


def test_a_second_writer_is_refused_until_the_first_ends(tokenizer, start_python, tmp_path):
    images = make_images(3)
    plan = small_plan(tokenizer, images)
    first = start_python(
        "-c",
        "import sys, pathlib; from imagetok.durable import lock\n"
        "with lock(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()",
        tmp_path,
    )
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(ResourceError, match="another process is writing"):
            encode_dataset(tokenizer, images, tmp_path, plan)
        assert list(tmp_path.iterdir()) == []
    finally:
        first.kill()
        first.communicate()
    assert encode_dataset(tokenizer, images, tmp_path, plan).written == 3


def test_too_little_disk_is_refused_before_anything_is_written(tokenizer, tmp_path):
    images = make_images(3)
    plan = small_plan(tokenizer, images, num_inputs=10**18)
    with pytest.raises(ResourceError, match="free"):
        encode_dataset(tokenizer, images, tmp_path / "codes", plan)
    assert not any((tmp_path / "codes").iterdir())


def test_the_manifest_is_what_finishes_a_dataset(encode):
    folder = encode(21).folder
    (folder / MANIFEST).unlink()
    with pytest.raises(ShardError, match=r"unfinished: 3 of 3 shards.*imagetok encode"):
        open_codes(folder)
    with pytest.raises(ShardError, match="unfinished"):
        verify_codes(folder)
