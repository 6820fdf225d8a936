"""Write the stored artifacts of this folder with another version of imagetok.

    git worktree add /somewhere/old COMMIT
    python tests/stored/make.py /somewhere/old

Every command runs inside this folder, with relative paths, so that nothing written names a machine.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUNNER = HERE.parents[1] / "benchmarks" / "run_commands.py"
MADE = ("runs", "codes", "samples", "compared", "exported", "measures.json", "made.json")
LEFT_OUT = (
    "runs/*/pictures",
    *(f"runs/{name}/checkpoints" for name in ("vqvae-ema", "vae", "vqvae2", "gpt", "pixelsnail")),
    "runs/hierarchy/checkpoints",
    "compared/*/seed-5/pictures",
    "compared/*/seed-5*/**/checkpoints",
    "compared/*/*.log",
    "compared/*.png",
    "compared/report.html",
    "**/.lock",
    "**/__pycache__",
)
"""What users may delete too, to keep this folder small."""
Command = tuple[list[str], int | None]
"""The words, and the number of optimizer steps after which it is stopped, or None."""
SHAPES = ",count=120,test_count=40,seed=0"
COMPARE = [
    *("compare", "configs/compared-edvae.yaml", "configs/compared-vqvae.yaml"),
    *("--out", "compared", "--seeds", "5", "--set", "train.steps=40"),
    *("--features", "python:tiny_features:network"),
    *("--prior", "configs/gpt.yaml", "--samples", "12", "--jobs", "2", "--device", "cpu"),
]


def train(name: str, out: str | None = None, stop_after: int | None = None) -> Command:
    """Train configs/NAME.yaml."""
    words = ["train", f"configs/{name}.yaml", "--out", f"runs/{out or name}", "--device", "cpu"]
    return words, stop_after


def encode(name: str, data: str) -> Command:
    """Encode a data spec with runs/NAME/tokenizer."""
    split = data.partition(",")[0].partition(":")[2]
    words = ["encode", "--tokenizer", f"runs/{name}/tokenizer", "--data", data]
    return [*words, "--shards", f"codes/{name}-{split}", "--device", "cpu"], None


def sample(name: str, *words: str) -> Command:
    """Draw from runs/NAME/prior."""
    return ["sample", "--prior", f"runs/{name}/prior", "--device", "cpu", *words], None


def export(name: str, form: str, file: str) -> Command:
    """Export codes/NAME."""
    return ["export", f"codes/{name}", "--to", form, "--out", f"exported/{file}"], None


def commands() -> list[Command]:
    """Everything, in the order in which one thing needs another."""
    trained = ["--tokenizer", "runs/edvae/tokenizer", "--data", "digits:test", "--device", "cpu"]
    return [
        *map(train, ("edvae", "vqvae-ema", "vae", "vqvae2")),
        train("vqvae-ema", "vqvae-ema-stopped", stop_after=33),
        *(encode("edvae", f"digits:{split}") for split in ("train", "test")),
        *(encode("vqvae2", f"shapes:{split}{SHAPES}") for split in ("train", "test")),
        *map(train, ("gpt", "pixelsnail", "hierarchy")),
        train("pixelsnail", "pixelsnail-stopped", stop_after=27),
        sample(
            "gpt",
            *["--seed", "7", "-n", "6", "--label", "3", "--top-k", "8", "--out", "samples/gpt"],
        ),
        sample(
            "gpt", *["--seed", "7", "-n", "8", "--guidance", "1.5", "--shards", "samples/gpt-codes"]
        ),
        sample("hierarchy", *["-n", "4", "--label", "all", "--out", "samples/hierarchy"]),
        (["evaluate", *trained, "--out", "measures.json"], None),
        export("edvae-test", "parquet", "edvae-test.parquet"),
        export("edvae-test", "npy", "edvae-test"),
        export("vqvae2-test", "parquet", "vqvae2.parquet"),
        (COMPARE, None),
    ]


def run(tree: Path, commands: list[Command]) -> str:
    """What the version in `tree` prints."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tree), str(HERE)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, str(RUNNER)],
        cwd=HERE, env=environment, input=json.dumps(commands), stdout=subprocess.PIPE, text=True,
        check=True,
    ).stdout  # fmt: skip


def inspect(tree: Path) -> dict[str, object]:
    """What the version says of each artifact, run and code dataset, by its place."""
    patterns = ("runs/*", "runs/*/tokenizer", "runs/*/prior", "codes/*", "samples/gpt-codes")
    patterns += ("compared/*/seed-5", "compared/*/seed-5/tokenizer")
    names = sorted(str(p.relative_to(HERE)) for pattern in patterns for p in HERE.glob(pattern))
    printed = run(tree, [(["inspect", name, "--json"], None) for name in names])
    found: dict[str, object] = {}
    for name in names:
        found[name], end = json.JSONDecoder().raw_decode(printed)
        printed = printed[end:].lstrip()
    return found


def delete(path: Path) -> None:
    """A file or folder, if it is there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def main() -> None:
    """The argument is a source tree of the version to store."""
    tree = Path(sys.argv[1]).resolve()
    for name in MADE:
        delete(HERE / name)
    (HERE / "exported").mkdir()
    run(tree, commands())
    for path in [found for pattern in LEFT_OUT for found in HERE.glob(pattern)]:
        delete(path)
    head = ["git", "-C", str(tree), "rev-parse", "HEAD"]
    commit = subprocess.run(head, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    made = {"commit": commit, "compare": COMPARE, "inspected": inspect(tree)}
    (HERE / "made.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
