"""A package with a quantizer and a data source of its own, installed into a fresh environment.

tests/own_parts is that package. Everything is done by commands in processes of that environment,
and then once more where the package is missing.
"""

import json
import os
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from hub_server import TOKEN, HubServer
from own_parts.example import write_example

from imagetok.config import apply_overrides, read_yaml

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "configs" / "digits"
PACKAGE = Path(__file__).parent / "own_parts"
OWN = {
    "data": {"source": "gradients", "count": 32},
    "tokenizer.quantizer": {"kind": "soft-vq", "num_codes": 16},
    "objective.weights": {"commitment": {"kind": "constant", "value": 0.25}},
}
SMALL = {
    "tokenizer.network.width": 8,
    "train.steps": 4,
    "train.batch_size": 8,
    "train.trackers": [],
}
SPAWN = (
    "import os, multiprocessing; "
    "os.environ.get('TEST_SPAWN') and multiprocessing.set_start_method('spawn', force=True)\n"
)
NEEDED = "needs the quantizer 'soft-vq' of the package imagetok-soft-vq 0.3.1, which is not"

pytestmark = pytest.mark.slow


def run(*words: object, code: int = 0, cwd: Path, **environment: str) -> str:
    """The output of a command, which ends with this exit code."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with configs: `own` with the package's parts, `vq` with imagetok's quantizer."""
    folder = tmp_path_factory.mktemp("place")
    tree = apply_overrides(read_yaml(DIGITS / "vqvae.yaml"), SMALL)
    built_in = apply_overrides(tree, {"data": OWN["data"]})
    for name, content in {"own": apply_overrides(tree, OWN), "vq": built_in}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The Python of a fresh environment with imagetok and, by pip, the package.

    It sees the libraries of this one, because nothing is downloaded.
    """
    if find_spec("setuptools") is None or int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip("needs setuptools 77")
    home = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", "--without-pip", home / "env", cwd=home)
    python = home / "env" / "bin" / "python"
    purelib = sysconfig.get_path("purelib", "venv", {"base": str(home / "env")})
    paths = [str(ROOT), *(p for p in sys.path if p.endswith("-packages"))]
    (Path(purelib) / "libraries.pth").write_text("\n".join([*paths, SPAWN]))
    source = home / "source"
    run("cp", "-r", PACKAGE, source, cwd=home)  # setuptools builds beside its sources
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q"]
    run(*pip, "--no-deps", "--no-build-isolation", source, cwd=home)
    return python


@pytest.fixture(scope="module")
def trained(python, place) -> Path:
    """The run of one process."""
    imagetok = [python, "-P", "-m", "imagetok"]
    run(*imagetok, "train", "own.yaml", "--out", "one", "--device", "cpu", cwd=place)
    return place / "one"


def steps(run_folder: Path) -> list[dict[str, float]]:
    lines = (run_folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_package_is_known_to_the_fresh_environment_alone(python, place, trained):
    code = (
        "from imagetok.plugins.loading import installed_plugins as p; import sys; "
        "print(p()[0][:3], 'imagetok_soft_vq' in sys.modules)"
    )
    assert "('imagetok-soft-vq', '0.3.1', 'imagetok_soft_vq') False" in run(
        python, "-c", code, cwd=place
    )
    config = json.loads((trained / "tokenizer" / "config.json").read_text())
    record = {"part": "quantizer", "name": "soft-vq", "package": "imagetok-soft-vq"}
    assert config["plugins"] == [{**record, "version": "0.3.1"}]
    words = ["-m", "imagetok", "train", "own.yaml", "--out", "none", "--device", "cpu"]
    said = run(sys.executable, "-P", *words, cwd=place, code=2)
    assert "data.source: expected one of 'digits'" in said and "with --plugin" in said


def test_two_processes_and_spawned_workers_train_what_one_process_trains(python, place, trained):
    words = ["-m", "imagetok", "train", "own.yaml", "--out"]
    torchrun = [python, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    assert "processes: 2" in run(*torchrun, "2", *words, "two", cwd=place)
    workers = ["--set", "train.workers=2", "--device", "cpu"]
    run(python, "-P", *words, "spawned", *workers, cwd=place, TEST_SPAWN="1")
    for other in ("two", "spawned"):
        found = steps(place / other)
        assert [r["mse"] for r in found] == pytest.approx(
            [r["mse"] for r in steps(trained)], rel=1e-4
        )


def test_a_plugin_file_reaches_spawned_workers_and_trials(python, place, trained):
    file = write_example(place / "mine.py")
    imagetok = [sys.executable, "-P", "-m", "imagetok", "--plugin", file.name]
    spawn = (
        "import multiprocessing, sys; multiprocessing.set_start_method('spawn'); "
        "from cli.main import main; main()"
    )
    (place / "spawning.py").write_text(f"if __name__ == '__main__':\n    {spawn}\n")
    workers = ["--set", "train.workers=2", "--device", "cpu"]
    words = ["--plugin", file.name, "train", "own.yaml", "--out", "by-file", *workers]
    run(sys.executable, "spawning.py", *words, cwd=place, PYTHONPATH=str(ROOT))
    assert steps(place / "by-file") == steps(trained)
    words = ["compare", "own.yaml", "vq.yaml", "--seeds", "1", "--out", "compared-by-file"]
    run(*imagetok, *words, "--device", "cpu", "--jobs", "2", cwd=place)
    text = (place / "compared-by-file" / "comparison.json").read_text()
    assert "imagetok --plugin mine.py compare" in json.loads(text)["command"]


def test_it_is_compared_encoded_modelled_and_sampled_from(python, place, trained):
    imagetok = [python, "-P", "-m", "imagetok"]
    words = ["compare", "own.yaml", "vq.yaml", "--seeds", "1", "--out", "compared"]
    shown = run(*imagetok, *words, "--device", "cpu", "--jobs", "2", cwd=place)
    assert "own" in shown and "vq" in shown
    result = json.loads((place / "compared" / "comparison.json").read_text())
    assert [t["status"] for m in result["methods"] for t in m["cells"]] == ["finished"] * 2

    codes = ["--tokenizer", "one/tokenizer", "--data", "gradients:train,count=32"]
    shown = run(*imagetok, "encode", *codes, "--shards", "codes", "--device", "cpu", cwd=place)
    assert "inputs 32 == written 32 + skipped 0" in shown
    settings = {
        "tokenizer": "one/tokenizer", "data.source": "codes", "data.test": "null",
        "model": "{kind: gpt, layers: 1, width: 16, heads: 2}", "train.steps": 2,
        "train.batch_size": 8, "train.trackers": "[]",
    }  # fmt: skip
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    config = DIGITS / "gpt.yaml"
    run(*imagetok, "train", config, *words, "--out", "gpt", "--device", "cpu", cwd=place)
    prior = ["--prior", "gpt/prior", "-n", "4", "--device", "cpu"]
    run(*imagetok, "sample", *prior, "--out", "samples", cwd=place)
    assert len([*(place / "samples").glob("*.png")]) >= 4
    here = [sys.executable, "-P", "-m", "imagetok"]
    assert NEEDED in run(*here, "sample", *prior, "--out", "none", code=3, cwd=place)


def test_it_is_shared_and_without_the_package_the_message_names_it(python, place, trained):
    with HubServer() as hub:
        environment = {
            "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(place / "hub"), "NO_PROXY": "*",
        }  # fmt: skip
        run(
            *(python, "-P", "-m", "imagetok", "push", "one/tokenizer", "ann/own"),
            cwd=place, **environment,
        )  # fmt: skip
        words = [
            "-P",
            "-m",
            "imagetok",
            "encode",
            "--tokenizer",
            "ann/own",
            "--data",
            "digits:test",
        ]
        words += ["--limit", "3", "--device", "cpu", "--shards"]
        run(python, *words, "from-hub", cwd=place, **environment)
        said = run(sys.executable, *words, "none", code=3, cwd=place, **environment)
    assert NEEDED in said and "`pip install imagetok-soft-vq`" in said
    assert "ann/own@" in said and "Traceback" not in said
    words = ["-m", "imagetok", "train", "own.yaml", "--out", "one", "--resume"]
    said = run(sys.executable, "-P", *words, code=2, cwd=place)
    assert "one: needs the data source 'gradients' of the package imagetok-soft-vq 0.3.1" in said
