"""The public API: its names, each function called, and each command against its function."""

import importlib
import inspect
import io
import json
import pkgutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from representative import slow_but

import imagetok
import prior
from cli.main import _run
from imagetok.conversion.vqgan import wanted_names
from imagetok.errors import InputError
from imagetok.results import Result
from imagetok.seeding import reseed_global

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "configs" / "digits"
NAMES = {
    "imagetok": [
        "Autoencoder", "CodeDataset", "Codes", "ImageContract", "ImagetokError", "Quantizer",
        "Tokenizer", "TokenizerConfig", "__version__", "build_tokenizer", "compare", "configs",
        "convert", "decode", "diagnose", "encode", "evaluate", "explore", "export", "import_codes",
        "info", "init", "inspect", "load_config", "load_plugin", "merge", "open_codes",
        "open_images", "parse_spec", "push", "reconstruct", "register", "report", "train",
        "uncertainty", "verify",
    ],
    "prior": [
        "Prior", "SamplingParams", "compare", "complete", "evaluate", "evaluate_samples",
        "generate", "generate_codes", "init", "inspect", "push", "report", "reproduce", "train",
        "verify",
    ],
}  # fmt: skip
PACKAGES = {"imagetok": imagetok, "prior": prior}

TINY = {
    "tokenizer.network.width": 8,
    "tokenizer.quantizer.num_codes": 16,
    "train.steps": 3,
    "train.trackers": [],
}
TINY_PRIOR = {
    "model.layers": 1,
    "model.width": 16,
    "model.heads": 2,
    "train.steps": 3,
    "train.trackers": [],
}


@dataclass(frozen=True)
class World:
    """What the functions are called on: a tokenizer, codes and a prior, hardly trained."""

    run: Path
    codes: Path
    prior_run: Path

    @property
    def tokenizer(self) -> Path:
        return self.run / "tokenizer"

    @property
    def prior(self) -> Path:
        return self.prior_run / "prior"

    @property
    def on_codes(self) -> dict[str, object]:
        """Settings of a prior's config: where codes and tokenizer are."""
        place = {"data.source": str(self.codes), "tokenizer": str(self.tokenizer)}
        return {**TINY_PRIOR, **place, "data.test": None}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    root = tmp_path_factory.mktemp("world")
    world = World(root / "run", root / "codes", root / "prior-run")
    imagetok.train(DIGITS / "edvae.yaml", out=world.run, set=TINY, device="cpu")
    imagetok.encode(world.tokenizer, "digits:test", world.codes)
    prior.train(DIGITS / "gpt.yaml", out=world.prior_run, set=world.on_codes, device="cpu")
    return world


@pytest.fixture(scope="module", autouse=True)
def every_module() -> None:
    """The first import of a module puts it in its package, over a function of that name."""
    for package in PACKAGES.values():
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


ON_SHAPES = {
    "data": {"source": "shapes", "count": 8, "test_count": 8},
    "train.steps": 1,
    "train.batch_size": 4,
    "tokenizer.network.width": 16,
}


def pixels() -> torch.nn.Module:
    """A feature network: the first pixels."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.AdaptiveAvgPool1d(4))


def _export(world: World, out: Path) -> Path:
    imagetok.export(world.codes, out / "codes.parquet")
    return out / "codes.parquet"


def _compare(function: Callable[..., object], out: Path) -> object:
    config = DIGITS / "edvae.yaml"
    return function([config], out, seeds=[1], set=TINY, device="cpu", progress=False)


def _load_plugin(file: Path) -> str:
    file.write_text("import imagetok\nimagetok.register('by-public-api', print)\n")
    imagetok.load_plugin(file)
    return file.name


def _pictures(folder: Path) -> Path:
    (folder / "pictures").mkdir(parents=True)
    for i in range(4):
        image = Image.new("RGB", (20, 20), (i, 0, 0))
        image.save(folder / "pictures" / f"{i}.png")
    return folder / "pictures"


def _vqgan(file: Path) -> Path:
    """Weights of a small VQGAN by the names of taming-transformers."""
    tree = {
        "image": {"mode": "rgb", "height": 8, "width": 8},
        "network": {
            "kind": "vqgan", "width": 32, "multipliers": [1, 1], "blocks": 1, "latent_channels": 8,
        },
        "quantizer": {"kind": "vqvae", "num_codes": 8, "code_dim": 4},
    }  # fmt: skip
    reseed_global(0)
    tokenizer = imagetok.build_tokenizer(imagetok.TokenizerConfig.model_validate(tree))
    state = tokenizer.state_dict()
    torch.save({theirs: state[ours] for ours, theirs in wanted_names(tokenizer).items()}, file)
    return file


def _push(function: Callable[..., object], folder: Path) -> str:
    """A run is refused before any network is asked."""
    with pytest.raises(InputError) as refusal:
        function(folder, "user/name")
    return str(refusal.value)


CALLS: dict[str, Callable[[World, Path], object]] = {
    "imagetok.compare": lambda w, out: _compare(imagetok.compare, out),
    "imagetok.inspect": lambda w, out: imagetok.inspect(w.codes),
    "imagetok.push": lambda w, out: _push(imagetok.push, w.run),
    "imagetok.verify": lambda w, out: imagetok.verify(w.tokenizer),
    "prior.compare": lambda w, out: _compare(prior.compare, out),
    "prior.complete": lambda w, out: prior.complete(
        w.prior, np.zeros((1, 8, 8), dtype=np.uint8), keep_rows=1, progress=False
    ),
    "prior.generate": lambda w, out: prior.generate(w.prior, 2, progress=False),
    "prior.generate_codes": lambda w, out: prior.generate_codes(w.prior, 2, out, progress=False),
    "prior.inspect": lambda w, out: prior.inspect(w.prior),
    "prior.push": lambda w, out: _push(prior.push, w.prior_run),
    "prior.verify": lambda w, out: prior.verify(w.prior_run),
    "imagetok.build_tokenizer": lambda w, out: imagetok.build_tokenizer(
        imagetok.Tokenizer.from_pretrained(w.tokenizer).config
    ),
    "imagetok.configs": lambda w, out: imagetok.configs("digits/edvae"),
    "imagetok.convert": lambda w, out: imagetok.convert(
        _vqgan(out.with_suffix(".pt")), "taming", out, size=8
    ),
    "imagetok.decode": lambda w, out: imagetok.decode(
        w.tokenizer, w.codes, out, limit=3, progress=False
    ),
    "imagetok.diagnose": lambda w, out: imagetok.diagnose(
        w.tokenizer, "digits:test", progress=False
    ),
    "imagetok.evaluate": lambda w, out: imagetok.evaluate(
        w.tokenizer, "digits:test", progress=False
    ),
    "imagetok.explore": lambda w, out: imagetok.explore(
        w.tokenizer, "digits:test", limit=20, progress=False
    ),
    "imagetok.reconstruct": lambda w, out: imagetok.reconstruct(
        w.tokenizer, np.zeros((8, 8), dtype=np.uint8)
    ),
    "imagetok.report": lambda w, out: imagetok.report(w.run, out / "a.html", progress=False),
    "imagetok.uncertainty": lambda w, out: imagetok.uncertainty(
        w.tokenizer, "digits:test", shifted="noise", limit=20, progress=False
    ),
    "prior.evaluate": lambda w, out: prior.evaluate(w.prior, w.codes, progress=False),
    "prior.evaluate_samples": lambda w, out: prior.evaluate_samples(
        w.prior, "digits:test", features="python:test_public_api:pixels", n=20, progress=False
    ),
    "prior.reproduce": lambda w, out: prior.reproduce(
        "papers/edvae/fig-3", out, seeds=[1], set=ON_SHAPES, device="cpu", progress=False
    ),
    "prior.report": lambda w, out: prior.report(
        [w.run, w.prior_run], out / "a.html", num_samples=1, progress=False
    ),
    "imagetok.encode": lambda w, out: imagetok.encode(
        w.tokenizer, "digits:test", out, limit=3, progress=False
    ),
    "imagetok.export": lambda w, out: imagetok.export(w.codes, out, to="npy"),
    "imagetok.import_codes": lambda w, out: imagetok.import_codes(
        _export(w, out), w.tokenizer, out / "codes"
    ),
    "imagetok.info": lambda w, out: imagetok.info(),
    "imagetok.init": lambda w, out: imagetok.init(
        _pictures(out), out=out / "a.yaml", size=16, device="cpu", progress=False
    ),
    "prior.init": lambda w, out: prior.init(
        _pictures(out), out=out / "a.yaml", size=16, device="cpu", progress=False
    ),
    "imagetok.load_config": lambda w, out: imagetok.load_config(
        DIGITS / "edvae.yaml", importlib.import_module("imagetok.training.config").TokenizerRun
    ),
    "imagetok.load_plugin": lambda w, out: _load_plugin(out.with_suffix(".py")),
    "imagetok.register": lambda w, out: imagetok.register("test-public-api", pixels),
    "imagetok.merge": lambda w, out: imagetok.merge([w.codes], out),
    "imagetok.open_codes": lambda w, out: imagetok.open_codes(w.codes),
    "imagetok.open_images": lambda w, out: imagetok.open_images(
        *imagetok.parse_spec("digits:test"), imagetok.Tokenizer.from_pretrained(w.tokenizer).image
    ),
    "imagetok.parse_spec": lambda w, out: imagetok.parse_spec("digits:test"),
    "imagetok.train": lambda w, out: imagetok.train(
        DIGITS / "edvae.yaml", out=out, set=TINY, device="cpu", progress=False
    ),
    "prior.train": lambda w, out: prior.train(
        DIGITS / "gpt.yaml", out=out, set=w.on_codes, device="cpu", progress=False
    ),
}
"""Public function -> a call of it on tiny input that may write into an own folder."""

FUNCTIONS = [
    f"{package}.{name}"
    for package, names in NAMES.items()
    for name in names
    if inspect.isfunction(getattr(PACKAGES[package], name))
]


def words(settings: dict[str, object]) -> list[str]:
    from imagetok.config import override_texts

    return [word for text in override_texts(settings) for word in ("--set", text)]


Call = Callable[[World, Path], Any]
PAIRS: dict[str, tuple[Callable[[World, Path], list[str]], Call]] = {
    "train": (
        lambda w, out: [str(DIGITS / "edvae.yaml"), *words(TINY), "--out", str(out)],
        lambda w, out: imagetok.train(DIGITS / "edvae.yaml", set=TINY, out=out),
    ),
    "train prior": (
        lambda w, out: [str(DIGITS / "gpt.yaml"), *words(w.on_codes), "--out", str(out)],
        lambda w, out: prior.train(DIGITS / "gpt.yaml", set=w.on_codes, out=out),
    ),
    "encode": (
        lambda w, out: [
            *("--tokenizer", str(w.tokenizer), "--data", "digits:test", "--limit", "70"),
            *("--samples-per-shard", "32", "--bf16", "--shards", str(out)),
        ],
        lambda w, out: imagetok.encode(
            w.tokenizer, "digits:test", out, limit=70, samples_per_shard=32, precision="bfloat16"
        ),
    ),
    "decode": (
        lambda w, out: [
            *("--tokenizer", str(w.tokenizer), "--shards", str(w.codes), "--limit", "5"),
            *("--out", str(out)),
        ],
        lambda w, out: imagetok.decode(w.tokenizer, w.codes, out, limit=5),
    ),
    "convert": (
        lambda w, out: [
            *(str(_vqgan(out.with_suffix(".pt"))), "--from", "taming", "--size", "8"),
            *("--out", str(out)),
        ],
        lambda w, out: imagetok.convert(_vqgan(out.with_suffix(".pt")), "taming", out, size=8),
    ),
    "merge": (
        lambda w, out: [str(w.codes), "--out", str(out)],
        lambda w, out: imagetok.merge([w.codes], out),
    ),
    "export": (
        lambda w, out: [str(w.codes), "--to", "npy", "--out", str(out)],
        lambda w, out: imagetok.export(w.codes, out, to="npy"),
    ),
    "import": (
        lambda w, out: [
            *(str(_export(w, out.parent)), "--tokenizer", str(w.tokenizer)),
            *("--shards", str(out)),
        ],
        lambda w, out: imagetok.import_codes(_export(w, out.parent), w.tokenizer, out),
    ),
}
"""Command (and a word on what it is given) -> its arguments, and the call that does the same."""


def in_a_thread(call: Callable[[], object]) -> object:
    """What `call` returns or raises in a thread of its own."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:  # pytest.raises looks at it
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file, but for what is measured on the clock.

    And for the states of generators in checkpoints, which nothing draws from, and their hash.
    """
    unlike = {"timing.jsonl"}
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        if "checkpoints" in path.parts and path.suffix == ".pkl":
            unlike |= {path.name, "manifest.json"}
    return {
        str(path.relative_to(folder)): without_clock(path)
        for path in files
        if path.name not in unlike
    }


def without_clock(path: Path) -> bytes:
    """A file's bytes; of a checkpoint's state without the size of timing.jsonl."""
    if path.name != "state.json":
        return path.read_bytes()
    state = json.loads(path.read_bytes())
    del state["timing_bytes"]
    return json.dumps(state).encode()


@pytest.mark.parametrize("package", NAMES)
def test_the_public_names_are_pinned_and_exist(package):
    assert sorted(PACKAGES[package].__all__) == NAMES[package]
    assert all(getattr(PACKAGES[package], name) is not None for name in NAMES[package])
    assert set(NAMES[package]) <= set(dir(PACKAGES[package]))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_documented_typed_and_no_module(name):
    package, _, function = name.partition(".")
    value = getattr(PACKAGES[package], function)
    assert inspect.isfunction(value), f"{name} is hidden by a module of that name"
    assert value.__doc__
    assert value.__name__ == function
    hints = inspect.signature(value)
    assert hints.return_annotation is not inspect.Signature.empty
    for parameter in hints.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter


@pytest.mark.parametrize("thread", [pytest.param("main", marks=pytest.mark.slow), "worker"])
@pytest.mark.parametrize("name", slow_but({*FUNCTIONS} - {"imagetok.compare"}, FUNCTIONS))
def test_every_function_can_be_called_after_every_import(world, tmp_path, name, thread):
    assert name in CALLS, f"give {name} a call on tiny input in CALLS"
    out, err = io.StringIO(), io.StringIO()
    call = lambda: CALLS[name](world, tmp_path / "out")  # noqa: E731
    with redirect_stdout(out), redirect_stderr(err):
        result = call() if thread == "main" else in_a_thread(call)
    assert (out.getvalue(), err.getvalue()) == ("", "")
    assert result is not None
    if isinstance(result, Result):
        assert repr(result).startswith(result.title())
        assert result._repr_html_().startswith("<p><b>")


@pytest.mark.parametrize("name", PAIRS)
def test_a_command_writes_what_its_function_writes(world, tmp_path, name):
    arguments, call = PAIRS[name]
    written = []
    for way in ("command", "function"):
        out = tmp_path / way / "out"
        out.parent.mkdir()
        if way == "command":
            assert _run([name.split()[0], *arguments(world, out)]) == 0
        else:
            call(world, out)
        written.append(contents(out))
    assert written[0]
    assert written[0].keys() == written[1].keys()
    assert {f for f in written[0] if written[0][f] != written[1][f]} == set()


def test_importing_the_packages_is_light():
    code = (
        "import imagetok, prior, cli.main, sys; imagetok.__version__; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
