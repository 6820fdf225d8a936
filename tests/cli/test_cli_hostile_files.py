"""Stored files with a value of another type or range, sealed again: refused by name, never a bug.

Places of every JSON file get odd values: a few by default, more in the slow run.
"""

import contextlib
import io
import json
import random
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from representative import slow_but

from cli.main import _run
from imagetok.codes.schema import Manifest
from imagetok.durable import canonical_json, seal_folder, sha256_file

STORED = Path(__file__).parent.parent / "stored"
DEEP = object()
MISSING = object()
ODD: list[Any] = [
    MISSING, None, "x", True, -1, 0, 2**31, 2**63, 10**400, 1.5, 1e308, float("nan"),
    [], [[]], {}, {"a": 1}, "\ud800", "../../x", DEEP,
]  # fmt: skip
CPU = ["--device", "cpu"]
ALLOWED = {0, 2, 3, 4, 5, 6}
SECONDS = 60


class Case(NamedTuple):
    """A file that is changed, what seals it again, and the commands that read it."""

    file: str
    seal: Callable[[Path], None]
    commands: list[list[str]]
    work: str = ""
    """The folder that is copied for every attempt; the file's by default."""


def unsealed(path: Path) -> None:
    """Nothing vouches for it."""


def sealed_beside(path: Path) -> None:
    """A manifest in its folder, and in the one above, of hashes."""
    for folder in (path.parent, path.parent.parent):
        if (folder / "manifest.json").is_file():
            (folder / "manifest.json").unlink()
            seal_folder(folder)


def rooted(path: Path) -> None:
    """A code dataset whose manifest takes the file as it is."""
    if path.name == "manifest.json":
        return
    manifest = json.loads((path.parent / "manifest.json").read_bytes())
    if path.name == "plan.json":
        manifest["plan_sha256"] = sha256_file(path)
    else:
        manifest["shards"][0]["record_sha256"] = sha256_file(path)
    manifest["root"] = Manifest(**manifest).expected_root()
    (path.parent / "manifest.json").write_bytes(canonical_json(manifest))


def resume(run: str, config: str) -> list[list[str]]:
    return [["train", config, "--out", run, "--resume", "--device", "cpu"]]


RUN, PRIOR, CODES = "runs/edvae", "runs/gpt/prior", "codes/edvae-test"
CHECKS = ("verify", "inspect")
CASES = {
    "finished": Case(f"{RUN}/finished.json", unsealed, [[c, RUN] for c in CHECKS]),
    "metrics": Case(f"{RUN}/metrics.jsonl", unsealed, [[c, RUN] for c in CHECKS]),
    "timing": Case(f"{RUN}/timing.jsonl", unsealed, [["verify", RUN]]),
    "report": Case("runs/gpt/metrics.jsonl", unsealed, [["report", "runs/gpt", "--out", "r.html"]]),
    "tokenizer": Case(f"{RUN}/tokenizer/config.json", sealed_beside,
                      [[c, f"{RUN}/tokenizer"] for c in CHECKS]),
    "prior": Case(f"{PRIOR}/config.json", sealed_beside, [[c, PRIOR] for c in CHECKS]),
    "plan": Case(f"{CODES}/plan.json", rooted, [[c, CODES] for c in CHECKS]),
    "record": Case(f"{CODES}/00000.json", rooted, [[c, CODES] for c in CHECKS]),
    "manifest": Case(f"{CODES}/manifest.json", rooted, [[c, CODES] for c in CHECKS]),
    "comparison": Case("compared/comparison.json", unsealed, [["inspect", "compared"]]),
    "comparison plan": Case("compared/plan.json", unsealed, [[c, "compared"] for c in CHECKS]),
    "samples": Case("samples/gpt/samples.json", unsealed, [
        ["report", "samples/gpt", "--out", "r.html", *CPU],
        ["sample", "--prior", PRIOR, "-n", "4", "--out", "samples/gpt", *CPU],
    ]),
    "measures": Case("measured/measures.json", unsealed,
                     [["report", "measured/measures.json", "--out", "r.html"]]),
    "binding": Case("exported/edvae-test/imagetok.json", sealed_beside, [
        ["import", "exported/edvae-test", "--tokenizer", f"{RUN}/tokenizer", "--shards", "new"],
    ]),
    "checkpoint": Case("runs/vqvae-ema-stopped/checkpoints/step-00000033/state.json", sealed_beside,
                       resume("runs/vqvae-ema-stopped", "configs/vqvae-ema.yaml"),
                       "runs/vqvae-ema-stopped"),
    "prior's checkpoint": Case(
        "runs/pixelsnail-stopped/checkpoints/step-00000027/state.json", sealed_beside,
        resume("runs/pixelsnail-stopped", "configs/pixelsnail.yaml"), "runs/pixelsnail-stopped"),
}  # fmt: skip

LONG = {"comparison", "comparison plan", "report", "prior's checkpoint"}
"""Cases that take seconds an attempt."""


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value of a tree; of a long list the first and the last."""
    yield at
    keys: list[Any] = []
    if isinstance(tree, dict):
        keys = list(tree)
    elif isinstance(tree, list):
        keys = sorted({0, len(tree) - 1}) if tree else []
    for key in keys:
        yield from places(tree[key], (*at, key))


def changed(tree: Any, at: tuple[Any, ...], value: Any) -> Any:
    """The tree with another value in a place."""
    if not at:
        return None if value is MISSING else value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    if len(at) == 1 and value is MISSING:
        del copy[at[0]]
    else:
        copy[at[0]] = changed(copy[at[0]], at[1:], value)
    return copy


def written(tree: Any) -> bytes:
    """JSON text with what our own writer would refuse."""
    text = json.dumps(tree, default=lambda value: "@deep" if value is DEEP else value)
    return text.replace('"@deep"', "[" * 5000 + "]" * 5000).encode()


def attempt(case: Case, data: bytes) -> list[tuple[int, str]]:
    """Exit code and messages of every command on a copy with this content of the file."""
    path = Path(case.file)
    work = Path(case.work or path.parent)
    aside = Path("aside")
    shutil.copytree(work, aside)
    told = []
    try:
        for command in case.commands:
            path.write_bytes(data)
            with contextlib.suppress(ValueError, KeyError, TypeError, LookupError):
                case.seal(path)
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                told.append((_run(command), out.getvalue()))
    finally:
        shutil.rmtree(work)
        aside.rename(work)
        for made in ("new", "r.html"):
            shutil.rmtree(made, ignore_errors=True)
            Path(made).unlink(missing_ok=True)
    return told


def stop(number: int, frame: object) -> None:
    raise AssertionError("hangs")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = shutil.copytree(STORED, tmp_path_factory.mktemp("hostile") / "stored")
    (folder / "measured").mkdir()
    shutil.copy(STORED / "measures.json", folder / "measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def test_a_file_that_may_not_grow_is_the_machines_fault(stored, capsys, monkeypatch):
    """EFBIG, as of `ulimit -f` or a file system with a limit."""
    export = ["export", "codes/edvae-test", "--to", "npy", "--out"]
    assert _run([*export, "imported"]) == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python would keep half a file
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        code = _run([*export, "new"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 5
    assert "ulimit -f" in capsys.readouterr().err
    assert not Path("new").exists()


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("count", slow_but([4], [4, 40]))
@pytest.mark.parametrize("name", slow_but([name for name in CASES if name not in LONG], CASES))
def test_odd_values_are_refused_by_name(stored, name, count):
    case = CASES[name]
    text = Path(case.file).read_text()
    is_log = case.file.endswith(".jsonl")
    lines = text.splitlines() if is_log else [text]
    tree = json.loads(lines[-1])
    mutants = [(at, value) for at in places(tree) for value in ODD]
    chosen = random.Random(15).sample(mutants, min(count, len(mutants)))
    signal.signal(signal.SIGALRM, stop)
    wrong = []
    for at, value in chosen:
        last = written(changed(tree, at, value))
        data = "\n".join(lines[:-1]).encode() + b"\n" + last + b"\n" if is_log else last
        signal.alarm(SECONDS)
        for code, told in attempt(case, data):
            if code not in ALLOWED or "Traceback" in told:
                wrong.append((at, str(value)[:20], code, told[-3000:]))
        signal.alarm(0)
    assert not wrong, f"{len(wrong)} of {len(chosen)}: {wrong[0]}"
