"""What an attacker or a careless author may do with plugins: files, texts, records and exits."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from own_parts.example import SETTINGS
from torch import nn

import imagetok
from cli import main
from imagetok.config import load_config, validate
from imagetok.data import DataSection
from imagetok.errors import ConfigError
from imagetok.networks import NetworkSection
from imagetok.plugins import loading
from imagetok.plugins.loading import load_plugin
from imagetok.plugins.records import MAX_RECORDS, PartRecord, check_available, read_records
from imagetok.plugins.registry import registered
from imagetok.quantizers import QuantizerSection, build_quantizer
from imagetok.tokenizers import TokenizerConfig
from imagetok.training.config import TokenizerRun

DIGITS = Path(__file__).parents[3] / "configs" / "digits"
FEATURE = "import imagetok, torch\nimagetok.register({!r}, torch.nn.Flatten)\n"
SECTION = """import imagetok
from typing import ClassVar, Literal
from imagetok.quantizers import QuantizerSection

class {name}(QuantizerSection):
    kind: Literal["soft"] = "soft"
    losses: ClassVar[tuple[str, ...]] = ()

imagetok.register({name}, print)
"""


def refused(call: Any, *arguments: object) -> str:
    with pytest.raises(ConfigError) as refusal:
        call(*arguments)
    return str(refusal.value)


def names() -> list[str]:
    return [part.name for part in registered()]


@pytest.mark.parametrize(
    "record",
    [
        {"plugin": "x; rm -rf ~"},
        {"plugin": "-rf.py"},
        {"plugin": "../evil.py"},
        {"plugin": "https://evil/x.py"},
        {"plugin": "a$(id).py"},
        {"plugin": "a.py\n"},
        {"plugin": "a\u202epy.evil"},
        {"plugin": "a\u200d.py"},
        {"plugin": "a" * 101},
        {"package": "-r"},
        {"package": "git+https://evil/x"},
        {"package": "a-"},
        {"package": "a" * 101},
        {"package": "good\n"},
        {"version": "1; reboot"},
        {"version": "1\u202e"},
        {"version": "1" * 65},
        {"name": "a" * 101},
    ],
)
def test_a_record_has_no_text_that_a_shell_could_run(record):
    text = refused(read_records, [{"part": "quantizer", "name": "soft", **record}], "config.json")
    assert "should match pattern" in text and len(text) < 500
    assert text.isprintable()


def test_records_are_limited_in_number():
    record = {"part": "quantizer", "name": "soft"}
    assert len(read_records([record] * MAX_RECORDS, "config.json")) == MAX_RECORDS
    text = refused(read_records, [record] * 10_000, "config.json")
    assert "at most 20 items" in text and len(text) < 500


def test_the_hint_of_a_record_is_quoted_for_a_shell():
    stored = {"part": "quantizer", "name": "soft", "plugin": "größe.py"}
    (record,) = read_records([stored], "config.json")
    assert "--plugin 'größe.py' before" in refused(check_available, [record], "runs/a")
    plain = PartRecord(
        part="data", name="soft", package="their-parts", version="1.0+cpu", plugin=""
    )
    assert "`pip install their-parts`" in refused(check_available, [plain], "runs/a")


@pytest.mark.parametrize("kind", ["x" * 5_000_000, "soft\u202e\x1b[2J\n" + "y" * 200])
def test_a_huge_kind_is_shortened_in_every_message(kind):
    tree: dict[str, Any] = {"image": {"mode": "grey", "height": 8, "width": 8}}
    for section in (
        {"quantizer": {"kind": kind}},
        {"network": {"kind": kind}},
        {"quantizer": {"kind": "vqvae", kind: 1}},
        {"quantizer": {"kind": "vqvae", "num_codes": kind}},
        {"quantizer": {"kind": "vqvae", "num_codes": [kind]}},
        {"quantizer": [kind] * 3},
    ):
        text = refused(validate, tree | section, TokenizerConfig, "config.json")
        assert len(text) < 2000 and all(line.isprintable() for line in text.splitlines())
    for config in ({"kind": kind}, {"kind": [kind]}):
        text = refused(imagetok.train, config)
        assert "kind: expected 'tokenizer' or 'prior'" in text and len(text) < 500
    for spec in (kind, f"digits:{kind}"):
        assert len(refused(imagetok.parse_spec, spec)) < 1000


@pytest.mark.parametrize("order", [("soft_vq.py", "uses.py"), ("uses.py", "soft_vq.py")])
def test_a_plugin_may_import_the_file_of_another(plugin, monkeypatch, order):
    for name in ("soft_vq", "uses"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    plugin("soft_vq.py", SECTION.format(name="SoftVQConfig"))
    uses = "from soft_vq import SoftVQConfig as Used\n" + FEATURE.format("used")
    folder = plugin("uses.py", uses).parent
    for name in order:
        load_plugin(folder / name)
    parts = {part.name: part for part in registered()}
    assert parts.keys() == {"soft", "used"}
    assert parts["soft"].origin.plugin == "soft_vq.py"
    assert sys.modules["imagetok_plugin_uses"].Used is parts["soft"].config
    load_plugin(folder / "uses.py")
    load_plugin(folder / "soft_vq.py")
    assert sorted(names()) == ["soft", "used"]


def test_a_file_cannot_replace_a_module_of_python(plugin):
    import colorsys

    load_plugin(plugin("colorsys.py", FEATURE.format("one")))
    assert sys.modules["colorsys"] is colorsys
    load_plugin(plugin("sndhdr.py", FEATURE.format("two")))  # of Python, and not imported yet
    assert getattr(sys.modules.get("sndhdr"), "__name__", "sndhdr") == "sndhdr"


@pytest.mark.parametrize("end", ["1 / 0", "raise KeyboardInterrupt", "import their_missing"])
def test_a_plugin_that_fails_leaves_nothing_registered(plugin, end):
    plugin("their_beside.py", FEATURE.format("beside"))
    text = FEATURE.format("one") + "import their_beside\n"
    file = plugin("a.py", text + end)
    with pytest.raises(KeyboardInterrupt if "Keyboard" in end else ConfigError):
        load_plugin(file)
    assert names() == [] and loading.plugin_options() == []
    file.write_text(text)
    load_plugin(file)
    assert names() == ["one", "beside"]
    load_plugin(file)
    assert names() == ["one", "beside"]
    file.write_text(FEATURE.format("one") + FEATURE.format("two") + end)
    with pytest.raises(KeyboardInterrupt if "Keyboard" in end else ConfigError):
        load_plugin(file)
    assert names() == ["one", "beside"]


def test_a_class_can_be_renamed_in_a_file_that_is_loaded_again(plugin):
    load_plugin(plugin("a.py", SECTION.format(name="One")))
    load_plugin(plugin("a.py", SECTION.format(name="Two")))
    assert [part.qualified_name for part in registered()] == ["imagetok_plugin_a:Two"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class Odd(BaseException): pass\nraise Odd('x')", "cannot be loaded: Odd: x ("),
        ("raise GeneratorExit", "cannot be loaded: GeneratorExit: "),
        ("raise SystemExit(0)", "cannot be loaded: SystemExit: 0"),
        ("raise ValueError('a\\nb\\x1b[2J' + 'c' * 10**6)", "ValueError: a b\ufffd[2Jccc"),
        (
            "class Odd(Exception):\n    def __str__(self): return 1 / 0\nraise Odd",
            "Odd: (its text cannot be read: ",
        ),
    ],
)
def test_whatever_a_plugin_raises_is_one_line(plugin, text, said):
    message = refused(load_plugin, plugin("a.py", text))
    assert said in message and message.isprintable() and len(message) < 1000


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("./plain", "a file without .py; expected a Python file (.py) or a module"),
        ("folder.py", "a folder; expected"),
        ("./folder.py/", "a folder; expected"),
        ("a\0.py", "not a path: embedded null byte"),
        ("a\nb.py", "no such file"),
        ("a b.py", "a file whose name has other characters than letters"),
        ("a" * 5000 + ".py", "not a path: "),
        ("x" * 10**6, "expected a Python file (.py) or the name"),
        (None, "--plugin None: expected a Python file (.py) or the name of a module"),
        (3, "--plugin 3: expected a Python file (.py) or the name of a module"),
        ("", "--plugin '': expected a Python file"),
    ],
)
def test_what_is_no_plugin_is_refused_in_one_line(untyped, plugin, monkeypatch, source, said):
    monkeypatch.chdir(plugin("plain", "").parent)
    Path("folder.py").mkdir()
    Path("a b.py").write_text("")
    message = refused(load_plugin, source)
    assert said in message and message.isprintable() and len(message) < 1000


def test_what_a_plugin_prints_goes_to_stderr(plugin, capsys):
    load_plugin(plugin("a.py", "print('hello')"))
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hello\n")


def test_an_exit_of_a_builder_is_an_error(untyped):
    def leave(config: object) -> None:
        sys.exit(0)

    imagetok.register(Named, leave)
    assert "cannot be built: SystemExit: 0; --debug" in refused(build_quantizer, Named())


def test_an_exit_while_a_command_runs_is_an_error(monkeypatch, capsys):
    def leave(*_: object, **__: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(main.imagetok, "main", leave)
    assert main._run(["configs"]) == 1
    assert "error: " in capsys.readouterr().err


def test_a_missing_plugin_is_not_damage(plugin, tmp_path, capsys):
    """Tokenizer, prior, run, comparison and report name the plugin, and exit with code 3."""
    file = plugin()
    load_plugin(file)
    run = tmp_path / "run"
    imagetok.train(DIGITS / "vqvae.yaml", out=run, set=SETTINGS, device="cpu", progress=False)
    loading.registrations.clear()
    report = ["report", str(run), "--out", str(tmp_path / "report.html"), "--device", "cpu"]
    prior = tmp_path / "prior"  # only its kind and its tokenizer are read before the refusal
    shutil.copytree(run / "tokenizer", prior / "tokenizer")
    (prior / "config.json").write_text('{"kind": "prior"}')
    comparison = tmp_path / "comparison"
    shutil.copytree(run, comparison / "soft" / "seed-0")
    shutil.copy(run / "config.yaml", comparison / "soft.yaml")
    plan = {"seeds": [0], "methods": {"soft": {"train": {"steps": 1}}}}
    (comparison / "plan.json").write_text(json.dumps(plan))
    verified = [["verify", str(path)] for path in (run / "tokenizer", run, prior, comparison)]
    for words in (*verified, report):
        assert main._run(words) == 3
        out, err = capsys.readouterr()
        assert "which comes from the file mine.py: load it with --plugin mine.py" in err
        assert "damaged" not in out + err
    load_plugin(file)
    assert main._run(["verify", str(run)]) == 0


class Named(QuantizerSection):
    kind: Literal["named"] = "named"
    losses: ClassVar[tuple[str, ...]] = ()


class Both(QuantizerSection, NetworkSection):
    kind: Literal["both"] = "both"
    losses: ClassVar[tuple[str, ...]] = ()
    downsampling: int = 2  # pyright: ignore[reportIncompatibleMethodOverride]


class Number(QuantizerSection):
    kind: Literal[1] = 1
    losses: ClassVar[tuple[str, ...]] = ()


class LossText(QuantizerSection):
    kind: Literal["loss-text"] = "loss-text"
    losses: ClassVar[Any] = "commitment"


class SplitText(DataSection):
    source: Literal["split-text"] = "split-text"
    splits: ClassVar[Any] = "train"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (Both, "Both: expected one base class of sections, found NetworkSection and QuantizerSe"),
        (Number, "Number: expected a key that names it, "),
        (LossText, "LossText: expected `losses` to be a tuple of names, as in ("),
        (SplitText, """`splits` to be a tuple of names, as in ("train",), found 'train'"""),
    ],
)
def test_a_section_that_would_fail_later_is_refused_at_once(section, said):
    text = refused(imagetok.register, section, nn.Identity)
    assert said in text or (section is Both and "expected one base class" in text)
    assert names() == []


def test_a_broken_package_is_not_in_the_messages_of_others(monkeypatch):
    monkeypatch.setattr(loading, "_errors", {"their-broken": "plugin of the package their-broken"})
    config = {"tokenizer.quantizer": {"kind": "theirs"}}
    text = refused(load_config, DIGITS / "vqvae.yaml", TokenizerRun, config)
    assert "found 'theirs'; load one of your own with --plugin" in text
    assert "their-broken" not in text and json.dumps(text)
