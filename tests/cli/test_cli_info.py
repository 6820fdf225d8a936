"""`imagetok info`: what a bug report needs, and nothing secret."""

import json
import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

import imagetok
from cli.main import _run
from imagetok import environment
from imagetok.caches import Cache, shareable, size_text


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder, with a Hub cache of one file of 3000 bytes and a link to it."""
    folder = tmp_path / "home" / "ann"
    hub = folder / "hub"
    (hub / "blobs").mkdir(parents=True)
    (hub / "blobs" / "weights").write_bytes(bytes(3000))
    (hub / "linked").symlink_to("blobs/weights")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(folder))  # read when imported
    return folder


def test_it_tells_versions_devices_precision_threads_and_caches(home, capsys):
    assert _run(["info"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"imagetok {imagetok.__version__} from ")
    rows = dict(line.strip().split("  ", 1) for line in printed.splitlines()[1:])
    assert rows["torch"].strip() == torch.__version__
    assert rows["default dtype"].strip() == "float32"
    assert rows["threads"].strip().startswith(f"{torch.get_num_threads()} ")
    assert rows["cache of Hub"].strip().startswith("~/hub (2.9 KiB")  # and the link's few bytes
    for name in (
        "[eval]",
        "[data]",
        "[demo]",
        "configs",
        "GPUs",
        "memory",
        "float32 products on GPUs",
    ):
        assert rows[name].strip(), name


def test_json_holds_the_same(home, capsys):
    assert _run(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["version"] == imagetok.__version__
    assert found["libraries"]["torch"] == torch.__version__
    assert found["caches"]["Hub"]["path"] == "~/hub"
    assert 3000 <= found["caches"]["Hub"]["bytes"] < 3100
    assert set(found) == set(vars(imagetok.info()))


@pytest.mark.parametrize("words", [["info"], ["info", "--json"]])
def test_nothing_secret_is_shown(words, home, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "https://ann:parole@hub.example/?key=parole")
    monkeypatch.setenv("HF_TOKEN", "hf_parole")
    monkeypatch.setenv("https_proxy", "ann:parole@proxy:3128")
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    assert _run(words) == 0
    printed = capsys.readouterr().out
    assert not any(secret in printed for secret in ("parole", "ann:", str(home)))
    assert "https://hub.example/" in printed and "~/hf" in printed
    variables = [re.sub('[":,]', "", line).split() for line in printed.splitlines()]
    assert {line[0] for line in variables if line[-1:] == ["set"]} == {"HF_TOKEN", "HTTPS_PROXY"}


def test_a_missing_library_says_how_to_install_it(monkeypatch):
    def version(name: str) -> str:
        if name == "torchmetrics":
            raise PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(environment, "version", version)
    found = imagetok.info()
    assert found.extras["eval"] == {
        "torch-fidelity": "1.0",
        "torchmetrics": None,
        "scikit-learn": "1.0",
    }
    text = str(found.rows()["[eval]"])
    assert "torchmetrics missing" in text and text.endswith('pip install "imagetok[eval]"')


def test_gpus_are_named_with_their_memory(monkeypatch):
    class Properties:
        name, total_memory, major, minor = "NVIDIA H100", 80 * 2**30, 9, 0

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: Properties)
    found = imagetok.info()
    assert [device.name for device in found.devices] == ["cuda:0", "cuda:1"]
    assert "NVIDIA H100, 80.0 GiB, compute capability 9.0" in str(found)


def test_sizes_and_folders_as_people_read_them(home):
    assert [size_text(n) for n in (0, 1023, 1536, 3 * 2**40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 TiB",
    ]
    assert shareable(home) == "~" and shareable(home / "x") == "~/x"
    assert shareable(f"{home}a/x") == f"{home}a/x"  # another user, whose name begins alike
    assert str(Cache(home / "x", None)) == "~/x (empty)"
    assert str(Cache(home / "x", 10, is_whole=False)) == "~/x (more than 10 B)"
