"""Pipes, devices, links and sizes: what no command waits for, fills the memory with, or copies."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sampling_parts import make_prior_folder

from cli.main import _run
from imagetok import artifacts
from imagetok.artifacts import read_artifact
from imagetok.data.shard_patterns import _MAX_SHARDS, count_shards, expand_shards
from imagetok.errors import ArtifactError, ConfigError, InputError
from imagetok.io.regular_files import MAX_HEADER_BYTES, FileError, check_safetensors, read_regular
from imagetok.tokenizers import Tokenizer
from prior import Prior


@contextmanager
def ends(seconds: int = 20) -> Iterator[None]:
    """Fail, instead of waiting for ever, where a call hangs."""

    def stop(number: int, frame: object) -> None:
        raise AssertionError("hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return make_prior_folder(tmp_path_factory.mktemp("files"))


@pytest.fixture
def prior(source, tmp_path) -> Path:
    """A copy of a prior's folder."""
    return shutil.copytree(source, tmp_path / "prior")


def test_only_regular_files_of_the_expected_size_are_read(tmp_path):
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    file.write_bytes(b"12345")
    os.mkfifo(pipe)
    assert read_regular(file, 5) == b"12345"
    with pytest.raises(FileError, match=r"file: too large: expected at most 4 bytes, found 5"):
        read_regular(file, 4)
    with ends():
        for path in (pipe, Path("/dev/zero"), Path("/dev/null")):
            with pytest.raises(FileError, match="expected a regular file"):
                read_regular(path)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none")
    assert issubclass(FileError, InputError) and issubclass(FileError, OSError)
    with pytest.raises(OSError) as refused:
        read_regular(pipe)
    assert refused.value.strerror == "expected a regular file, found a pipe or a device"


def as_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def as_zeros(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def as_hole(path: Path) -> None:
    """A sparse file, larger than the memory."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(1 << 40)


HOSTILE = [as_pipe, as_zeros, as_hole]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("name", ["config.json", "tokenizer/config.json", "manifest.json"])
def test_hostile_files_of_an_artifact(prior, hostile: Callable[[Path], None], name):
    hostile(prior / name)
    with ends():
        assert _run(["inspect", str(prior)]) in (0, 3)
        assert _run(["verify", str(prior)]) in (3, 4)
        if name != "manifest.json":  # which is for `verify`
            assert (
                _run(["sample", "--prior", str(prior), "-n", "1", "--out", str(prior / "no")]) == 3
            )


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_weights(prior, hostile):
    hostile(prior / "model.safetensors")
    with ends(), pytest.raises(ArtifactError, match=r"model\.safetensors"):
        Prior.from_pretrained(prior)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_files_where_other_files_are_read(tmp_path, hostile, source, capsys):
    file = {end: tmp_path / f"file.{end}" for end in ("yaml", "csv", "jsonl", "tar", "npy")}
    for path in file.values():
        hostile(path)
    run, codes = tmp_path / "run", tmp_path / "codes"
    run.mkdir(), codes.mkdir()
    hostile(codes / "plan.json")
    hostile(run / "config.yaml")
    tokenizer = ["--tokenizer", str(source.parent / "own")]
    out = ["--shards", str(tmp_path / "out")]
    calls = [
        (["train", str(file["yaml"])], 2),
        (["report", str(run), "--out", str(tmp_path / "r.html")], 3),
        (["inspect", str(codes)], 3),
        (["verify", str(codes)], 3),
        (["import", str(file["npy"]), *tokenizer, "--out", str(tmp_path / "i")], 3),
        (["encode", *tokenizer, "--data", str(file["tar"]), *out], 3),
    ]
    if hostile is not as_hole:  # a table may be large
        calls += [(["encode", *tokenizer, "--data", str(file[e]), *out], 3)
                  for e in ("csv", "jsonl")]  # fmt: skip
    with ends(60):
        for words, code in calls:
            assert _run(words) in (code, 2), words
            assert "bug in imagetok" not in capsys.readouterr().err


def test_a_header_of_a_million_names_is_not_read(prior):
    path = prior / "model.safetensors"
    names = {f"layer.{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
             for i in range(80_000)}  # fmt: skip
    header = json.dumps(names).encode()
    assert len(header) > MAX_HEADER_BYTES
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ArtifactError, match=r"expected a header of at most 4,194,304 bytes, found"):
        Prior.from_pretrained(prior)
    for size in (1 << 62, (1 << 64) - 1):
        path.write_bytes(size.to_bytes(8, "little"))
        check_safetensors(path)
        with pytest.raises(ArtifactError, match=path.name):
            Prior.from_pretrained(prior)


@pytest.mark.parametrize("name", artifacts.FILES["prior"])
def test_links_out_of_an_artifact_are_refused(prior, tmp_path, name):
    """Of any of its files: what they lead to would be copied into others' folders, and pushed."""
    private = tmp_path / "private"
    shutil.copyfile(prior / name, private)
    (prior / name).unlink()
    (prior / name).symlink_to(private)
    with pytest.raises(ArtifactError, match=rf"{name}: .* found a link that leads out of it"):
        read_artifact(prior)
    with pytest.raises(ArtifactError, match="found a link that leads out of it"):
        artifacts.push_artifact(prior, "user/name")
    (prior / name).unlink()
    (prior / name).symlink_to(name.rpartition("/")[2])
    with pytest.raises(ArtifactError, match=r"a link without a target|a link that leads out of"):
        read_artifact(prior)


def test_a_linked_folder_in_an_artifact_is_refused(prior, tmp_path):
    (prior / "tokenizer").rename(tmp_path / "elsewhere")
    (prior / "tokenizer").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="found a link that leads out of it"):
        read_artifact(prior)


def test_links_that_stay_are_followed(source, prior, tmp_path):
    """Within the folder, to the folder, and of the Hub's cache, to its files of this repository."""
    (prior / "README.md").rename(prior / "CARD.md")
    (prior / "README.md").symlink_to("CARD.md")
    (tmp_path / "latest").symlink_to(prior)
    assert read_artifact(tmp_path / "latest").kind == "prior"
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / ("0" * 40), "models--a--b/blobs"
    (snapshot / "tokenizer").mkdir(parents=True)
    (tmp_path / blobs).mkdir()
    for i, name in enumerate(artifacts.FILES["prior"]):
        shutil.copyfile(source / name, tmp_path / blobs / str(i))
        (snapshot / name).symlink_to(Path("../" * (2 + name.count("/")), "blobs", str(i)))
    assert read_artifact(snapshot).kind == "prior"
    assert isinstance(Tokenizer.from_pretrained(snapshot / "tokenizer"), Tokenizer)
    (snapshot / "README.md").unlink()
    (snapshot / "README.md").symlink_to(tmp_path / "prior" / "CARD.md")
    with pytest.raises(ArtifactError, match="found a link that leads out of it"):
        read_artifact(snapshot)
    (tmp_path / blobs).rename(tmp_path / "moved")
    (tmp_path / blobs).symlink_to(tmp_path / "moved")
    with pytest.raises(ArtifactError, match="found a link that leads out of it"):
        read_artifact(snapshot)


PATTERNS = [
    "a.tar", "a{1,2}.tar", "{00..12}", "{9..1}", "{0..9..4}", "{9..0..-3}", "{a..e}{1,2}", "{a..A}",
    "{x}", "{}", "{a,}", "{a,{b,c}}{1..3}", "{{1..3},x}", r"\{a,b\}{1,2}", "{-2..2}", "{1..1..0}",
    "{a..e..2}", "a}b", "{a..1}",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_tars_are_counted_as_they_are_expanded(pattern):
    import braceexpand

    try:
        expected = len(list(braceexpand.braceexpand(pattern)))
    except ValueError:
        return  # which expanding refuses
    assert count_shards(pattern) == expected


@pytest.mark.parametrize(
    "pattern",
    [
        "{0,1}" * 40, "{0..999999999999}", "{0..9}" * 12, "{" + "{0,1}" * 40 + ",x}",
        f"{{0..{'9' * 5000}}}", "{a..z}" * 9, "{0..1000000}", f"{{0..9999}}{'x' * 100_000}",
        "{{0..999999},{0..999999}}",
    ],
)  # fmt: skip
def test_patterns_that_are_bombs_are_not_expanded(pattern):
    with ends(), pytest.raises(ConfigError, match=r"at most .*, found more"):
        expand_shards(pattern)


def test_as_many_tars_as_are_allowed():
    assert count_shards("http://h/{0..999}/{000..999}.tar") == _MAX_SHARDS
    assert len(expand_shards("http://h/{0..99}/{000..099}.tar")) == 10_000


@pytest.mark.parametrize("pattern", ["{" * 50_000, "{" * 51 + "}" * 51, "{a,b" * 40])
def test_patterns_without_form_are_refused(pattern):
    with ends(), pytest.raises(ConfigError, match="braces"):
        expand_shards(pattern)


def test_a_checkpoint_with_such_a_header_is_not_read(tmp_path, caplog):
    from imagetok.durable import seal_folder
    from imagetok.training.checkpoint import kept_weights

    path = tmp_path / "step-00000001"
    path.mkdir()
    header = b" " * (MAX_HEADER_BYTES + 1)
    (path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    seal_folder(path)
    assert kept_weights(tmp_path) == {}
    assert "model.safetensors: expected a header of at most" in caplog.text
