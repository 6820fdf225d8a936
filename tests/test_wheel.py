"""A wheel brings the named configs, also where the user's folder has packages of our names."""

import os
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STRANGER = "raise SystemExit('a stranger was imported')\n"


def run(*words: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    if find_spec("setuptools") is None:
        pytest.skip("needs setuptools")
    from setuptools import __version__

    if int(__version__.partition(".")[0]) < 77:
        pytest.skip(f"needs setuptools 77, found {__version__}")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("imagetok", "prior", "cli", "configs", "pyproject.toml", "README.md", "LICENSE"):
        run("cp", "-r", ROOT / name, source / name, cwd=folder)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    run(*pip, "-w", folder, source, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture
def place(tmp_path) -> Path:
    """A user's folder with packages of his own."""
    for name in ("cli", "prior", "configs"):
        (tmp_path / "place" / name).mkdir(parents=True)
        (tmp_path / "place" / name / "__init__.py").write_text(STRANGER)
    return tmp_path / "place"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["prefix", "target"])
def test_an_installed_wheel_knows_the_configs(how, wheel, place, tmp_path):
    prefix = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--ignore-installed"]
    run(*pip, f"--{how}", prefix, wheel, cwd=tmp_path)
    purelib = sysconfig.get_path("purelib", vars={"base": str(prefix)})
    library = prefix if how == "target" else Path(purelib)
    code = f"import sys; sys.path.insert(0, {str(library)!r}); from cli.main import main; main()"
    imagetok = [sys.executable, "-P", "-c", code]
    assert "digits/edvae" in run(*imagetok, "configs", cwd=place)
    tiny = ["--set", "train.steps=2", "--set", "tokenizer.network.width=8", "--device", "cpu"]
    printed = run(*imagetok, "train", "digits/edvae", *tiny, cwd=place)
    assert str(prefix) in printed.splitlines()[0]
    assert (place / "runs" / "digits-edvae" / "tokenizer").is_dir()
