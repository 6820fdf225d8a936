"""Run an earlier commit and this working tree on one machine, and compare what they make.

    python benchmarks/against_commit.py COMMIT [--quick]

Three folders are filled by the same commands: `old` by the commit, `new` by the working tree, and
`continued` half by the commit (runs stopped on the way, unfinished code datasets, fewer samples)
and then by the working tree. All three must hold the same: fingerprints, weights, metrics, code
datasets, samples. The configs of the commit must resolve to the same trees. Prints one table; the
exit code is 1 if anything differs.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from short_runs import (
    DRAWN,
    PRIORS,
    QUICK,
    STOP,
    TOKENIZERS,
    Command,
    ShortRuns,
    name_of,
    write_small_prior,
)

ROOT = Path(__file__).resolve().parents[1]
RUNNER = ROOT / "benchmarks" / "run_commands.py"


class Version(NamedTuple):
    """The imagetok of one source tree."""

    tree: Path

    def run(self, folder: Path, commands: list[Command]) -> None:
        """Run commands in a folder, all in one process."""
        self.python(folder, [str(RUNNER)], json.dumps(commands))

    def python(self, folder: Path, words: list[str], given: str) -> str:
        """What the interpreter prints; what it says on the way is in `folder`.log."""
        environment = os.environ | {"PYTHONPATH": str(self.tree), "OMP_NUM_THREADS": "1"}
        log = folder.with_suffix(".log")
        with log.open("a") as said:
            done = subprocess.run(
                [sys.executable, *words],
                cwd=folder, env=environment, input=given, stdout=subprocess.PIPE, stderr=said,
                text=True,
            )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{self.tree}, in {folder}:\n{log.read_text()[-3000:]}")
        return done.stdout


def leave_half(old: Version, folder: Path, runs: ShortRuns) -> None:
    """Make of a copy of `old` one in which the commit was stopped on the way."""
    for place in ("samples", "exported"):
        shutil.rmtree(folder / place)
    shutil.rmtree(folder / "compared" / "vqvae-ema", ignore_errors=True)
    old.run(folder, list(runs.sample(DRAWN // 2)))
    for kind in (runs.priors, runs.tokenizers):  # priors are trained with a tokenizer
        for config in kind:
            shutil.rmtree(folder / "runs" / name_of(config))
        old.run(folder, [runs.train(config, stop_after=STOP) for config in kind])
    for file in [*folder.glob("measures-*.json"), *folder.glob("codes/*/manifest.json")]:
        file.unlink()


def read_json(path: Path) -> Any:
    """Plain data."""
    return json.loads(path.read_bytes())


def read_comparison(path: Path) -> Any:
    """The methods, without what depends on the clock."""
    methods = read_json(path)["methods"]
    rates = ("train_images_per_second", "encode_images_per_second")
    return {m["name"]: {k: v for k, v in m.items() if k not in rates} for m in methods}


class Part(NamedTuple):
    """Files that must be equal, read as `read` does."""

    what: str
    patterns: tuple[str, ...]
    read: Callable[[Path], Any] = Path.read_bytes


PARTS = (
    Part("fingerprints", ("**/tokenizer/config.json", "**/prior/config.json"),
         lambda path: read_json(path)["fingerprint"]),
    Part("artifacts' config.json", ("**/tokenizer/config.json", "**/prior/config.json")),
    Part("weights", ("**/tokenizer/model.safetensors", "**/prior/model.safetensors")),
    Part("metrics.jsonl", ("**/metrics.jsonl",)),
    Part("finished.json", ("**/finished.json",)),
    Part("config.yaml of runs", ("**/config.yaml",), lambda p: yaml.safe_load(p.read_bytes())),
    Part("code datasets, every file", ("codes/*/*", "compared/**/codes/*/*")),
    Part("sampled pictures", ("samples/*/*.png",)),
    Part("samples.json", ("samples/*/samples.json",), read_json),
    Part("exported codes", ("exported/*",)),
    Part("measures of evaluate", ("measures-*.json",), lambda p: read_json(p)["measures"]),
    Part("plan of a comparison", ("compared/plan.json",), read_json),
    Part("values of a comparison", ("compared/comparison.json",), read_comparison),
)  # fmt: skip


class Row(NamedTuple):
    """One line of the table."""

    what: str
    total: int
    different: list[str]


def compare_folders(title: str, old: Path, new: Path) -> Iterator[Row]:
    """A row for each part; a file that only one of the folders has is different."""
    for part in PARTS:
        names = {
            str(path.relative_to(folder))
            for folder in (old, new)
            for pattern in part.patterns
            for path in folder.glob(pattern)
            if path.is_file()
        }
        different = [
            name
            for name in sorted(names)
            if not ((old / name).is_file() and (new / name).is_file())
            or part.read(old / name) != part.read(new / name)
        ]
        if names:
            yield Row(f"{title}: {part.what}", len(names), different)


RESOLVE = """
import json, sys
from pathlib import Path
import imagetok
from imagetok.config import read_yaml, validate
from imagetok.training.config import TokenizerRun
from prior.config import PriorRun

def resolved(name):
    named = hasattr(imagetok, "configs") and not Path(name).is_file()
    tree = imagetok.configs(name).tree if named else read_yaml(name)
    run = TokenizerRun if tree["kind"] == "tokenizer" else PriorRun
    return validate(tree, run, name).model_dump(mode="json")

found = {}
for name in json.load(sys.stdin):
    try:
        found[name] = resolved(name)
    except Exception as error:
        found[name] = f"not resolved: {error}"
print(json.dumps(found))
"""


def compare_configs(old: Version, new: Version, work: Path) -> Row:
    """Every config file of the commit, read there by its path, here by its path or as a name."""
    names = [str(path.relative_to(old.tree)) for path in old.tree.glob("configs/**/*.yaml")]
    trees = []
    for title, version in (("old", old), ("new", new)):
        place = work / f"{title}-configs"  # `configs` there are those of the version
        place.mkdir()
        (place / "configs").symlink_to(version.tree / "configs")
        trees.append(json.loads(version.python(place, ["-c", RESOLVE], json.dumps(names))))
    different = [name for name in sorted(names) if trees[0][name] != trees[1][name]]
    return Row("resolved trees of configs", len(names), different)


def compare_versions(old: Version, new: Version, work: Path, runs: ShortRuns) -> Iterator[Row]:
    """Fill the three folders and compare them."""
    yield compare_configs(old, new, work)
    folders = {title: work / title for title in ("old", "new", "continued")}
    for title in ("old", "new"):
        folders[title].mkdir()
        shutil.copytree(old.tree / "configs", folders[title] / "configs")
        write_small_prior(folders[title])
    with ThreadPoolExecutor() as pool:
        filled = [
            pool.submit(version.run, folders[title], runs.all())
            for title, version in (("old", old), ("new", new))
        ]
        for future in filled:
            future.result()
    yield from compare_folders("new", folders["old"], folders["new"])
    shutil.copytree(folders["old"], folders["continued"])
    leave_half(old, folders["continued"], runs)
    new.run(folders["continued"], runs.all())
    yield from compare_folders("continued", folders["old"], folders["continued"])


@contextlib.contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Version]:
    """The commit in a worktree of its own."""
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield Version(folder)
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("commit", help="the earlier commit")
    parser.add_argument("--quick", action="store_true", help="two tokenizers and one prior")
    parser.add_argument("--new", type=Path, default=ROOT, help="another source tree to compare")
    asked = parser.parse_args()
    chosen = QUICK if asked.quick else (*TOKENIZERS, *PRIORS)
    runs = ShortRuns(chosen, compares=not asked.quick)
    with tempfile.TemporaryDirectory(prefix="against-commit-") as name:
        work = Path(name)
        with checked_out(asked.commit, work / "tree") as old:
            rows = list(compare_versions(old, Version(asked.new.resolve()), work, runs))
    width = max(len(row.what) for row in rows)
    for row in rows:
        verdict = f"{len(row.different)} DIFFERENT" if row.different else "equal"
        print(f"{row.what:{width}}  {row.total:4}  {verdict}")
        for place in row.different[:5]:
            print(f"{'':{width}}        {place}")
    return int(any(row.different for row in rows))


if __name__ == "__main__":
    sys.exit(main())
