"""`imagetok push`, and Hub ids wherever a tokenizer or prior is asked for."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import TOKEN, HubServer
from huggingface_hub import hf_hub_download

from cli.main import _run
from imagetok import seeding
from imagetok.config import apply_overrides, read_yaml, validate
from imagetok.pictures import save_grid
from imagetok.tokenizers import Tokenizer, build_tokenizer
from imagetok.training.config import TokenizerRun
from prior.build import build_prior
from prior.config import GPTConfig, PriorConfig

ROOT = Path(__file__).parent.parent.parent
CONFIG = ROOT / "configs" / "digits" / "edvae.yaml"
TINY = ["tokenizer.network.width=8", "tokenizer.quantizer.num_codes=16", "train.steps=2"]
TOKENIZER, PRIOR = "ann/edvae", "ann/gpt"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """An untrained tokenizer of digits, a prior of its codes, and an image, in runs/."""
    root = tmp_path_factory.mktemp("made")
    config = validate(apply_overrides(read_yaml(CONFIG), TINY), TokenizerRun, "test")
    seeding.reseed_global(0, "test")
    tokenizer = build_tokenizer(config.tokenizer).eval()
    tokenizer.save_pretrained(root / "edvae" / "tokenizer", {"digits test psnr_db": 12.5})
    architecture = PriorConfig(
        tokenizer_fingerprint=tokenizer.fingerprint,
        num_codes=tokenizer.num_codes,
        grids=tokenizer.grids,
        num_classes=10,
        model=GPTConfig(layers=1, heads=2, width=16),
    )
    prior = build_prior(architecture).eval()
    prior.save_pretrained(root / "gpt" / "prior", root / "edvae" / "tokenizer")
    for run in ("edvae", "gpt"):
        (root / run / "config.yaml").write_text("kind: tokenizer\n")
    save_grid(tokenizer.decode(prior.sample(1)), root / "image.png", columns=1)
    return root


@pytest.fixture
def shared(hub: HubServer, made: Path, fresh_cache, capsys) -> dict[str, str]:
    """Repository -> what can be loaded, after `push` and in an empty cache."""
    for folder, name in [("edvae/tokenizer", TOKENIZER), ("gpt/prior", PRIOR)]:
        assert _run(["push", str(made / folder), name]) == 0
    capsys.readouterr()
    fresh_cache()
    return {name: f"{name}@{repo.refs['main']}" for name, repo in hub.repos.items()}


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


@pytest.mark.parametrize("folder", ["edvae/tokenizer", "gpt/prior"])
def test_push_prints_what_to_do_with_it(
    hub: HubServer, made: Path, fresh_cache, tmp_path, monkeypatch, capsys, folder: str
) -> None:
    words = ["push", str(made / folder), "ann/it", "--revision", "trial", "--message", "try it"]
    assert _run([*words, "--private"]) == 0
    repo = hub.repos["ann/it"]
    url, commit, use = capsys.readouterr().out.splitlines()
    assert repo.private and repo.refs["trial"] != repo.refs["main"]
    assert url == f"{hub.url}/ann/it/commit/{repo.refs['trial']}"
    assert commit == f"commit: {repo.refs['trial']}"
    local = tree(made / folder)
    assert repo.head("trial").keys() == {*local, ".gitattributes"}
    changed = {name for name, data in local.items() if repo.head("trial")[name] != data}
    assert changed == {"README.md", "manifest.json"}  # they name the repository
    card = repo.head("trial")["README.md"].decode()
    assert card == local["README.md"].decode().replace("path/to/this/folder", "ann/it")
    fresh_cache()
    monkeypatch.chdir(tmp_path)
    words = shlex.split(use.removeprefix("use it: imagetok "))
    assert _run([str(made / "image.png") if word == "IMAGE" else word for word in words]) == 0
    assert list(tmp_path.rglob("*.png"))


def test_pushing_again_makes_no_commit(hub: HubServer, shared, made: Path, capsys) -> None:
    assert _run(["push", str(made / "gpt" / "prior"), PRIOR]) == 0
    assert f"commit: {shared[PRIOR].split('@')[1]}" in capsys.readouterr().out
    assert len(hub.repos[PRIOR].commits) == 2


def test_what_is_no_artifact_is_not_pushed(
    hub: HubServer, made: Path, tmp_path: Path, capsys
) -> None:
    damaged, unreadable, mixed = (tmp_path / name for name in ("damaged", "unreadable", "mixed"))
    for folder in (damaged, unreadable):
        shutil.copytree(made / "edvae" / "tokenizer", folder)
    shutil.copytree(made / "gpt" / "prior", mixed)
    (mixed / "manifest.json").unlink()
    other = Tokenizer.from_pretrained(mixed / "tokenizer")
    next(other.parameters()).add_(1)
    other.save_pretrained(mixed / "tokenizer")
    content = bytearray((damaged / "model.safetensors").read_bytes())
    content[-1] ^= 1
    for folder in (damaged, unreadable):
        (folder / "model.safetensors").write_bytes(content)
    (unreadable / "manifest.json").unlink()
    (tmp_path / "codes").mkdir()
    (tmp_path / "codes" / "plan.json").touch()
    for folder, says in [
        (made / "edvae", f"imagetok push {made / 'edvae' / 'tokenizer'} ann/x"),
        (made / "gpt", f"imagetok push {made / 'gpt' / 'prior'} ann/x"),
        (tmp_path / "codes", "expected a tokenizer or prior, found a code dataset"),
        (tmp_path / "nowhere", "expected a tokenizer, prior, run, comparison or code dataset"),
        (damaged, "model.safetensors: its sha256 differs"),
        (unreadable, "expected fingerprint"),
        (mixed, "belongs to tokenizer"),
    ]:
        assert _run(["push", str(folder), "ann/x"]) == 3
        assert says in capsys.readouterr().err
    assert _run(["push", str(made / "edvae" / "tokenizer"), "name"]) == 2
    assert "expected a repository like user/name" in capsys.readouterr().err
    assert hub.requests == []


def test_a_card_may_be_edited_before_the_push(hub: HubServer, made: Path, tmp_path: Path) -> None:
    Tokenizer.from_pretrained(made / "edvae" / "tokenizer").save_pretrained(tmp_path / "t")
    card = (tmp_path / "t" / "README.md").read_text().replace("tags:", "license: mit\ntags:")
    (tmp_path / "t" / "README.md").write_text(card)
    assert _run(["push", str(tmp_path / "t"), TOKENIZER]) == 0
    assert b"license: mit" in hub.repos[TOKENIZER].head()["README.md"]
    assert _run(["verify", TOKENIZER]) == 0


def test_every_command_takes_a_hub_id(
    hub: HubServer, shared, made: Path, tmp_path: Path, capsys
) -> None:
    local = str(made / "edvae" / "tokenizer")
    for source in (TOKENIZER, local):
        out = tmp_path / ("hub" if source == TOKENIZER else "local")
        with_it = ["--tokenizer", source]
        words = ["encode", *with_it, "--data", "digits:test", "--limit", "20"]
        assert _run([*words, "--shards", str(out / "codes")]) == 0
        words = ["decode", *with_it, "--shards", str(out / "codes")]
        assert _run([*words, "--out", str(out / "decoded")]) == 0
        words = ["reconstruct", *with_it, "--out", str(out / "both.png")]
        assert _run([*words, str(made / "image.png")]) == 0
        words = ["evaluate", *with_it, "--data", "digits:test"]
        assert _run([*words, "--out", str(out / "measures.json")]) == 0
        words = ["train", str(CONFIG), "--init-from", source, "--out", str(out / "run")]
        sets = [word for change in (*TINY, "train.trackers=[]") for word in ("--set", change)]
        assert _run([*words, *sets, "--device", "cpu"]) == 0
        prior = PRIOR if source == TOKENIZER else str(made / "gpt" / "prior")
        words = ["sample", "--prior", prior, "-n", "3"]
        assert _run([*words, "--out", str(out / "own")]) == 0
        assert _run([*words, *with_it, "--out", str(out / "given")]) == 0
    there, here = tree(tmp_path / "hub"), tree(tmp_path / "local")
    names = {name for name in here if name.endswith((".png", ".safetensors", ".tar"))}
    assert len(names) > 30 and all(there[name] == here[name] for name in names)
    for file, key in [("measures.json", "origin"), ("own/samples.json", "origin")]:
        name = TOKENIZER if file == "measures.json" else PRIOR
        record = json.loads(there[file])
        assert record.get("subject", record)[key] == shared[name]
    assert json.loads(there["codes/plan.json"])["tokenizer"]["name"] == shared[TOKENIZER]
    assert json.loads(here["codes/plan.json"])["tokenizer"]["name"] == local


def test_codes_of_the_same_tokenizer_are_continued(
    shared, made: Path, tmp_path: Path, capsys
) -> None:
    words = ["encode", "--data", "digits:test", "--limit", "20", "--shards", str(tmp_path / "c")]
    assert _run([*words, "--tokenizer", TOKENIZER]) == 0
    before = tree(tmp_path / "c")
    (tmp_path / "c" / "manifest.json").unlink()
    assert _run([*words, "--tokenizer", str(made / "edvae" / "tokenizer")]) == 0
    assert tree(tmp_path / "c") == before


def test_inspect_and_verify_name_the_commit(
    hub: HubServer, shared, tmp_path: Path, made: Path, capsys
) -> None:
    for name, kind in [(TOKENIZER, "tokenizer"), (PRIOR, "prior")]:
        assert _run(["inspect", name, "--json"]) == 0
        described = json.loads(capsys.readouterr().out)
        assert (described["kind"], described["origin"]) == (kind, shared[name])
        hf_hub_download(name, ".gitattributes")  # as a program would that takes all there is
        assert _run(["verify", name]) == 0
        assert capsys.readouterr().out == f"{name}: good\n"
    assert _run(["inspect", str(made / "gpt" / "prior"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["origin"] == str(made / "gpt" / "prior")
    changed = hub.repos[PRIOR].head() | {"tokenizer/README.md": b"# Edited"}
    hub.repos[PRIOR].commit(changed)
    assert _run(["verify", PRIOR]) == 4  # `verify` looks at every byte
    assert "tokenizer/README.md: expected" in capsys.readouterr().out
    assert _run(["sample", "--prior", PRIOR, "-n", "1", "--out", str(tmp_path / "s")]) == 0
    hub.repos[PRIOR].commit(changed | {"model.safetensors": b"x"})
    assert _run(["sample", "--prior", PRIOR, "-n", "1", "--out", str(tmp_path / "s2")]) == 3
    assert "model.safetensors: expected" in capsys.readouterr().err


def test_exit_codes_of_what_can_go_wrong(
    hub: HubServer, shared, made: Path, tmp_path: Path, log_in, fresh_cache, capsys
) -> None:
    def run(source: str) -> str:
        out = tmp_path / "out"
        code = _run(["sample", "--prior", source, "-n", "1", "--out", str(out)])
        error = capsys.readouterr().err
        assert not out.exists() and "Traceback" not in error
        assert error.splitlines()[-1].startswith("error: ")
        return f"{code}: {error}"

    hub.add("ann/private", {}, private=True)
    assert run("ann/missing").startswith("3") and run(f"{PRIOR}@v9").startswith("3")
    log_in(None)
    assert "3: error: ann/private" in run("ann/private")
    push = ["push", str(made / "gpt" / "prior"), "ann/new"]
    assert _run(push) == 3 and "hf auth login" in capsys.readouterr().err
    hub.fail("GET /api/models", 429)
    assert run("ann/other").startswith("5")
    hub.stop()
    fresh_cache()
    found = run(PRIOR)
    assert found.startswith("5") and f"run `imagetok inspect {PRIOR}` once while connect" in found
    log_in(TOKEN)
    assert _run(push) == 5 and "connection to the Hub" in capsys.readouterr().err


def imagetok(hub: HubServer, home: Path, *words: str, **more: str) -> tuple[int, str]:
    """Exit code and output of a process of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment = clean | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "*",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", "imagetok", *words],
        env=environment | more,
        cwd=home.parent,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_real_program(hub: HubServer, made: Path, tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    code, out = imagetok(hub, home, "push", str(made / "gpt" / "prior"), PRIOR)
    assert code == 0 and f"sample --out samples --prior {PRIOR}@" in out
    code, out = imagetok(hub, home, "sample", "--prior", PRIOR, "-n", "2", "--out", "drawn")
    assert code == 0 and len(list((tmp_path / "drawn").glob("0*.png"))) == 2
    assert f"{PRIOR}: commit {hub.repos[PRIOR].refs['main']}" in out
    hub.stop()
    code, out = imagetok(hub, home, "inspect", PRIOR)
    assert code == 0 and "using the cached commit" in out
    for mode in ("0", "1"):
        code, out = imagetok(hub, other, "inspect", PRIOR, HF_HUB_OFFLINE=mode)
        assert code == 5 and f"error: {PRIOR} (no such folder" in out
        assert "Traceback" not in out
