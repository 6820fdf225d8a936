"""Files, modules and entry points: how they are loaded, what they may break, and what is stored."""

import json
import pickle
import shutil
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from own_parts.example import SETTINGS, write_example

import imagetok
from cli.main import _run
from imagetok.config import load_config
from imagetok.data import open_images
from imagetok.data.loader_workers import Refusals
from imagetok.errors import ArtifactError, ConfigError
from imagetok.images import ImageContract
from imagetok.plugins import loading
from imagetok.plugins.loading import installed_plugins, load_plugin, plugin_options
from imagetok.plugins.registry import find, registered
from imagetok.tokenizers import Autoencoder, build_tokenizer
from imagetok.training.config import TokenizerRun

DIGITS = Path(__file__).parents[3] / "configs" / "digits"
FEATURE = "import imagetok, torch\nimagetok.register({!r}, torch.nn.Flatten)\n"


def forget() -> None:
    """As a process that has not loaded any plugin."""
    loading.registrations.clear()
    loading._asked.clear()
    for name, module in [*sys.modules.items()]:
        if getattr(module, "__name__", "").startswith("imagetok_plugin_"):
            del sys.modules[name]


def train(out: Path) -> imagetok.Tokenizer:
    run = imagetok.train(DIGITS / "vqvae.yaml", out=out, set=SETTINGS, device="cpu", progress=False)
    return run.tokenizer


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of the example, loaded from a file; not to be changed. Nothing is loaded afterwards."""
    folder = tmp_path_factory.mktemp("own")
    load_plugin(write_example(folder / "mine.py"))
    train(folder / "run")
    forget()
    return folder / "run"


@pytest.fixture
def artifact(run, tmp_path) -> Path:
    """A copy of its tokenizer."""
    return Path(shutil.copytree(run / "tokenizer", tmp_path / "tokenizer"))


def refused(error: type[Exception], call, *arguments, **named) -> str:
    with pytest.raises(error) as refusal:
        call(*arguments, **named)
    return str(refusal.value)


def entry(monkeypatch, value: str, package: str = "their-package", version: str = "1.2") -> None:
    """An installed package with this entry point, beside those that there are."""
    found = loading.entry_points(group=loading.GROUP)
    point = EntryPoint(package, value, loading.GROUP)
    point = point._for(SimpleNamespace(name=package, version=version))
    monkeypatch.setattr(loading, "entry_points", lambda group: [*found, point])
    monkeypatch.setattr(loading, "_errors", None)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("nothing.py", None, "nothing.py: no such file; expected a Python file (.py) or a module"),
        ("their_nothing", None, "cannot be loaded: ModuleNotFoundError: No module named 'their_n"),
        ("no module", None, "expected a Python file (.py) or the name of a module, as in"),
        ("a.py", "x = (", "a.py: cannot be loaded: '(' was never closed ("),
        ("a.py", "import torch\n\n1 / 0", "cannot be loaded: ZeroDivisionError: division by zero"),
        ("a.py", "import torch\n\n1 / 0", "a.py, line 3)"),
        ("a.py", "import sys; sys.exit(3)", "a.py: cannot be loaded: SystemExit: 3"),
        ("a.py", "import imagetok\nimagetok.register('vgg16', print)", "'vgg16' is a feature netw"),
    ],
)
def test_a_plugin_that_fails_is_one_message(tmp_path, plugin, monkeypatch, name, text, said):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        plugin(name, text)
    message = refused(ConfigError, load_plugin, name)
    assert message.startswith("--plugin ") and said in message
    assert plugin_options() == [] and registered() == []


def test_a_file_is_loaded_with_its_neighbours_and_again_when_it_changed(plugin):
    plugin("their_neighbour.py", "NAME = 'one'")
    file = plugin("a.py", "import imagetok, torch, their_neighbour\n"
                  "imagetok.register(their_neighbour.NAME, torch.nn.Flatten)")  # fmt: skip
    load_plugin(file)
    load_plugin(str(file))
    assert [part.name for part in registered()] == ["one"]
    assert plugin_options() == ["--plugin", str(file)]
    file.write_text(FEATURE.format("two"))
    load_plugin(file)
    assert [part.name for part in registered()] == ["two"]
    assert all(part.origin.plugin == "a.py" for part in registered())


def test_two_files_of_one_name_are_told_apart(tmp_path, plugin):
    load_plugin(plugin("a.py", FEATURE.format("one")))
    (tmp_path / "more").mkdir()
    other = plugin("more/a.py", FEATURE.format("two"))
    assert "have the same name; rename one of them" in refused(ConfigError, load_plugin, other)
    assert [part.name for part in registered()] == ["one"]


def test_entry_points_are_loaded_when_a_name_is_not_known(monkeypatch, plugin):
    plugin("their_parts.py", FEATURE.format("one"))
    plugin("their_calls.py", "import imagetok, torch\ndef parts():\n"
           "    imagetok.register('two', torch.nn.Flatten)\n")  # fmt: skip
    monkeypatch.syspath_prepend(plugin("x.py", "").parent)
    entry(monkeypatch, "their_parts", "their-parts", "1.0")
    entry(monkeypatch, "their_calls:parts", "their-calls", "2.0")
    assert [p.entry for p in installed_plugins()] == ["their_calls:parts", "their_parts"]
    load_config(DIGITS / "edvae.yaml", TokenizerRun)
    imagetok.parse_spec("digits:test")
    assert "their_parts" not in sys.modules and "their_calls" not in sys.modules
    assert (one := find("features", "one")) is not None
    assert one.origin[:2] == ("their-parts", "1.0") and one.origin.plugin == ""
    assert find("features", "two") is not None and plugin_options() == []


def test_a_broken_package_is_named_and_stands_in_no_others_way(monkeypatch, plugin, caplog):
    plugin("their_broken.py", "import their_missing_library")
    plugin("their_good.py", FEATURE.format("good"))
    monkeypatch.syspath_prepend(plugin("x.py", "").parent)
    entry(monkeypatch, "their_broken", "their-broken")
    entry(monkeypatch, "their_good", "their-good")
    with caplog.at_level("WARNING", logger="imagetok"):
        monkeypatch.setattr(loading.logger, "propagate", True)
        assert find("features", "good") is not None
    told = "plugin of the package their-broken: cannot be loaded: ModuleNotFoundError: No module"
    assert told in caplog.text and caplog.text.count("their-broken") == 1
    text = refused(
        ConfigError, load_config, DIGITS / "vqvae.yaml", TokenizerRun,
        {"tokenizer.quantizer": {"kind": "theirs"}},
    )  # fmt: skip
    assert told not in text  # it was logged
    assert [p.error.startswith("plugin of") for p in installed_plugins()] == [True, False]
    assert _run(["configs"]) == 0


def test_a_dataset_of_a_plugin_reaches_a_process_without_it(plugin):
    load_plugin(plugin())
    section = find("data", "gradients")
    assert section is not None and section.config is not None
    contract = ImageContract(mode="grey", height=8, width=8)
    images = open_images(section.config(), "train", contract)
    sent = pickle.dumps(Refusals(images.read, "--workers"))
    forget()
    received = pickle.loads(sent)
    assert find("data", "gradients") is not None
    assert received.__getitems__([0, 1]).images.shape == (2, 1, 8, 8)


def test_an_artifact_names_the_file_that_its_quantizer_comes_from(run, tmp_path, capsys):
    folder, file = run / "tokenizer", run.parent / "mine.py"
    record = {"part": "quantizer", "name": "soft-vq", "plugin": "mine.py"}
    assert json.loads((folder / "config.json").read_text())["plugins"] == [record]
    assert "`soft-vq` of a file (`--plugin mine.py`)" in (folder / "README.md").read_text()
    stored = json.loads((run / "plugins.json").read_text())["plugins"]
    assert [part["name"] for part in stored] == ["gradients", "soft-vq"]
    said = "needs the quantizer 'soft-vq', which comes from the file mine.py: load it with --plugin"
    assert said in refused(ArtifactError, Autoencoder.from_pretrained, folder)
    fingerprint = imagetok.inspect(folder).content["fingerprint"]
    words = ["encode", "--tokenizer", str(folder), "--data", "digits:test"]
    assert _run([*words, "--shards", str(tmp_path / "codes")]) == 3
    assert said in capsys.readouterr().err
    resumed = refused(
        ConfigError, imagetok.train, DIGITS / "vqvae.yaml", out=run, set=SETTINGS, resume=True
    )
    assert "run: needs the data source 'gradients', which comes from the file mine.py" in resumed
    assert _run(["--plugin", str(file), *words, "--shards", str(tmp_path / "codes")]) == 0
    assert Autoencoder.from_pretrained(folder).fingerprint == fingerprint


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            {"package": "imagetok-theirs", "version": "0.3"},
            "needs the quantizer 'soft-vq' of the package imagetok-theirs 0.3, which is not "
            "installed; if you trust it, `pip install imagetok-theirs`",
        ),
        (
            {"package": "imagetok-theirs", "version": "0.3", "plugin": "theirs.vq"},
            "`pip install imagetok-theirs`, then load it with --plugin theirs.vq before the comm",
        ),
        ({"package": "numpy", "version": "1"}, "is installed and does not have it"),
        ({"package": "numpy", "plugin": "numpy.x"}, "of the package numpy: load it with --plugin"),
        ({}, "which a program registered by itself: call its imagetok.register first"),
        ({"package": "x; rm -rf ~"}, "plugins.0.package: String should match pattern"),
        ({"plugin": "a\nb"}, "plugins.0.plugin: String should match pattern"),
        ({"name": "Soft VQ"}, "plugins.0.name: String should match pattern"),
        ({"code": "1"}, "plugins.0.code: unknown key"),
    ],
)
def test_what_an_artifact_says_of_its_plugins_is_read_for_messages_alone(artifact, record, said):
    config = json.loads((artifact / "config.json").read_text())
    config["plugins"] = [{"part": "quantizer", "name": "soft-vq", **record}]
    (artifact / "config.json").write_text(json.dumps(config))
    modules = {*sys.modules}
    assert said in refused(ArtifactError, Autoencoder.from_pretrained, artifact)
    assert {*sys.modules} == modules


def test_an_artifact_of_built_in_kinds_has_no_plugins(tmp_path):
    config = load_config(DIGITS / "edvae.yaml", TokenizerRun, {"tokenizer.network.width": 8})
    build_tokenizer(config.tokenizer).save_pretrained(tmp_path / "tokenizer")
    stored = json.loads((tmp_path / "tokenizer" / "config.json").read_text())
    assert stored.keys() == {
        "architecture", "fingerprint", "format_version", "imagetok_version", "kind",
    }  # fmt: skip


def test_a_comparison_refuses_what_its_processes_cannot_load(plugin, tmp_path):
    file = plugin()
    load_plugin(file)
    config = load_config(DIGITS / "vqvae.yaml", TokenizerRun, SETTINGS)
    (tmp_path / "soft.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    for name, part in [*loading.registrations.items()]:  # as a notebook does
        loading.registrations[name] = part._replace(loaded_by=None)
    text = refused(ConfigError, imagetok.compare, [tmp_path / "soft.yaml"], tmp_path / "out")
    assert "compare: its processes cannot know the data source 'gradients', which this" in text
    assert 'imagetok.load_plugin("FILE.py")' in text


def test_the_option_stands_before_the_command(capsys):
    assert _run(["train", "digits/edvae", "--plugin", "a.py"]) == 2
    assert "imagetok --plugin ..." in capsys.readouterr().err
    assert _run(["--plugin", "nothing.py", "configs"]) == 2
    assert "error: --plugin nothing.py: no such file" in capsys.readouterr().err


def test_an_error_in_a_plugin_is_not_called_a_bug_of_imagetok(plugin, tmp_path, capsys):
    # The run when it is built has two images, a training step has four.
    whole = plugin().read_text()
    text = whole.replace("at_least_float32(h)", "at_least_float32(h if len(h) == 2 else h.devize)")
    assert text != whole
    words = ["--plugin", str(plugin("mine.py", text)), "train", str(DIGITS / "vqvae.yaml")]
    for key, value in SETTINGS.items():
        words += ["--set", f"{key}={json.dumps(value)}"]
    assert _run([*words, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 1
    error = capsys.readouterr().err
    assert "error: imagetok_plugin_mine, a plugin, raised AttributeError: 'Tensor' object" in error
    assert "bug in imagetok" not in error
