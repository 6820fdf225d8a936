"""The source distribution and the wheel: what they hold, and how an installed wheel behaves."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

import imagetok
from cli.main import ISSUES, _run

ROOT = Path(__file__).parent.parent
PACKAGES = ("imagetok", "prior", "cli")
FOLDERS = (".ci", ".github", "benchmarks", "configs", "docs", "tests")
TOP_FILES = (
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "README.md"),
    *("mkdocs.yml", "pyproject.toml", "setup.py"),
)
STRANGER = "raise SystemExit('a stranger was imported')\n"

index_page = runpy.run_path(str(ROOT / "setup.py"))["index_page"]


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


def checkout_files() -> set[str]:
    """What the project consists of: of a checkout the files that git knows, else all."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ) if shutil.which("git") and (ROOT / ".git").exists() else None  # fmt: skip
    if listed is not None and listed.returncode == 0:
        return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    folders = [ROOT / name for name in (*FOLDERS, *PACKAGES)]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    kept = {path for path in files if "__pycache__" not in path.parts}
    return {path.relative_to(ROOT).as_posix() for path in kept} | {*TOP_FILES}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder with the source distribution, and the wheel that is built of it."""
    if find_spec("build") is None:
        pytest.skip("needs build")
    if int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip(f"needs setuptools 77, found {version('setuptools')}")
    folder = tmp_path_factory.mktemp("built")
    for name in checkout_files():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / "source" / name)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder]
    run(*build, folder / "source", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    return next(built.glob("*.whl"))


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


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_stands_in_one_place(capsys):
    assert project()["project"]["dynamic"] == ["version", "readme"]
    assert project()["tool"]["setuptools"]["dynamic"]["version"] == {
        "attr": "imagetok.version.__version__"
    }
    assert project()["project"]["urls"]["Issues"] == ISSUES
    assert _run(["--version"]) == 0
    assert capsys.readouterr().out == f"imagetok, version {imagetok.__version__}\n"
    assert imagetok.info().version == imagetok.__version__
    for package in PACKAGES:  # what is installed may be of another time
        for path in (ROOT / package).rglob("*.py"):
            assert 'version("imagetok")' not in path.read_text(), path


def test_every_config_is_named_for_the_wheel():
    """A new folder of configs needs a line of its own in pyproject.toml."""
    named = project()["tool"]["setuptools"]["data-files"]
    folders = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/**/*.yaml")}
    assert named == {f"share/imagetok/{f}": [f"{f}/*.yaml"] for f in sorted(folders)}


def test_the_manifest_names_every_folder_of_the_checkout():
    top = {name.partition("/")[0] for name in checkout_files()}
    assert top - {".gitignore"} == {*PACKAGES, *FOLDERS, *TOP_FILES}
    lines = (ROOT / "MANIFEST.in").read_text().splitlines()
    assert {line.removeprefix("graft ") for line in lines if "graft" in line} == {*FOLDERS}


def test_every_link_of_the_index_page_leads_to_a_file():
    page = index_page((ROOT / "README.md").read_text(), imagetok.__version__)
    prose = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r'(!?)\[[^\]]*\]\(([^)]*)\)|(?:src|href)="([^"]*)"', prose)
    assert len(targets) > 10
    for bang, link, attribute in targets:
        target = link or attribute
        assert re.match(r"https://|#", target), f"{target} leads nowhere on the index"
        place = f"/imagetok/imagetok/blob/v{imagetok.__version__}/"
        if bang:
            place = place.replace("blob/", "")
        _, ours, path = target.partition(place)
        if ours:
            assert (ROOT / path.partition("#")[0]).is_file(), target
        else:
            assert (
                "/imagetok/imagetok/" not in target
                or target in project()["project"]["urls"].values()
            )


def test_code_and_whole_links_of_the_readme_stay_as_they_are():
    text = "[a](b.md) ![c](d.png) [e](https://x.y) [f](#g)\n```python\nx[0](y)\n```\n[a](b.md)\n"
    page = index_page(text, "1.0")
    assert page.count("https://github.com/imagetok/imagetok/blob/v1.0/b.md") == 2
    assert "![c](https://raw.githubusercontent.com/imagetok/imagetok/v1.0/d.png)" in page
    assert "[e](https://x.y) [f](#g)" in page and "x[0](y)" in page


def test_an_index_renders_the_page():
    markdown = pytest.importorskip("readme_renderer.markdown")
    page = index_page((ROOT / "README.md").read_text(), imagetok.__version__)
    html = markdown.render(page)
    if html is None:
        pytest.skip("needs readme_renderer[md]")
    assert html.count("<img") == len(re.findall(r"!\[|<img ", page))
    assert html.count("<h2") == len(re.findall(r"^## ", page, flags=re.MULTILINE))
    assert "<table>" in html and "<pre" in html and "<h1" in html


@pytest.mark.slow
def test_the_source_distribution_is_the_checkout(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as tar:
        names = {m.name.partition("/")[2] for m in tar.getmembers() if m.isfile()}
        assert not [m.name for m in tar.getmembers() if m.issym() or m.islnk()]
    made = {name for name in names if name.startswith("imagetok.egg-info/")}
    assert names - made - {"PKG-INFO", "setup.cfg"} == checkout_files() - {".gitignore"}
    assert path.stat().st_size < 8 << 20


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_the_configs_alone(wheel):
    head = f"imagetok-{imagetok.__version__}"
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        metadata = message_from_bytes(file.read(f"{head}.dist-info/METADATA"))
    files = checkout_files()
    resources = {"imagetok/py.typed", "imagetok/training/gpu_times.json"}
    resources |= {f"imagetok/reporting/{name}" for name in ("style.css", "template.html")}
    resources |= {name for name in files if name.startswith("imagetok/data/resources/")}
    code = {n for n in files if n.endswith(".py") and n.split("/")[0] in PACKAGES}
    configs = {f"{head}.data/data/share/imagetok/{n}" for n in files if n.startswith("configs/")}
    assert {n for n in names if ".dist-info/" not in n} == code | resources | configs
    assert metadata["Version"] == imagetok.__version__
    assert metadata["Description-Content-Type"] == "text/markdown"
    page = index_page((ROOT / "README.md").read_text(), imagetok.__version__)
    assert str(metadata.get_payload()).strip() == page.strip()
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))
    assert {"Homepage", "Documentation", "Issues", "Changelog"} <= set(urls)


@pytest.mark.slow
def test_an_index_would_take_both(built):
    if find_spec("twine") is None:
        pytest.skip("needs twine")
    files = [*built.glob("*.whl"), *built.glob("*.tar.gz")]
    checked = run(
        sys.executable, "-m", "twine", "--no-color", "check", "--strict", *files, cwd=built
    )
    assert checked.count("PASSED") == 2
