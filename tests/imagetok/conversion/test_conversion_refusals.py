"""Nothing in a checkpoint is run, and weights that are not the family's are refused by name."""

import json
import pickle
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from drawn_weights import drawn_weights
from safetensors.torch import save_file
from torch import Tensor, nn

import imagetok
from cli.main import _run
from imagetok.errors import ConfigError, ImagetokError, InputError

SHAPES = json.loads((Path(__file__).parent / "data" / "taming.json").read_text())


def weights() -> dict[str, Tensor]:
    return drawn_weights(SHAPES)


def refusal(source: Path | str, out: Path, family: str = "taming", **options: Any) -> str:
    """The message, after which nothing was written."""
    with pytest.raises(ImagetokError) as told:
        imagetok.convert(source, family, out, size=32, **options)
    assert not out.exists()
    return str(told.value)


class Planted:
    """Pickled as a call of a function by its name."""

    def __init__(self, name: str, *args: object):
        self.name, self.args = name, args


_PurePython: Any = vars(pickle)["_Pickler"]


class _Pickler(_PurePython):
    """Writes the name of a planted function without importing it."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Planted):
            module, _, name = obj.name.rpartition(".")
            self.write(f"c{module}\n{name}\n".encode("latin-1"))
            super().save(obj.args)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


class _Module:
    """What torch.save takes for the module pickle."""

    Pickler = _Pickler

    @staticmethod
    def dump(content: object, file: IO[bytes], protocol: int) -> None:
        _Pickler(file, protocol).dump(content)


def save_with(planted: Planted, path: Path, *, is_zip: bool = True) -> None:
    torch.save(
        {"state_dict": weights(), "callbacks": planted},
        path,
        pickle_module=_Module,
        pickle_protocol=2,
        _use_new_zipfile_serialization=is_zip,
    )


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("name", ["os.system", "planted_module.Anything", "builtins.exec"])
def test_code_under_an_unknown_name_is_not_run(name, is_zip, tmp_path, monkeypatch):
    trace = tmp_path / "trace"
    (tmp_path / "planted_module.py").write_text(f"open({str(trace)!r}, 'w')\nAnything = str\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "last.ckpt"
    argument = f"touch {trace}" if name == "os.system" else f"open({str(trace)!r}, 'w')"
    save_with(Planted(name, argument), path, is_zip=is_zip)
    message = refusal(path, tmp_path / "out")
    assert name.rpartition(".")[2] in message
    assert not trace.exists()
    assert "planted_module" not in sys.modules


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "omegaconf.dictconfig.DictConfig",
        "argparse.Namespace",
    ],
)
def test_a_known_class_name_is_never_imported_or_called(name, is_zip, tmp_path, monkeypatch):
    """Even where a module of that name lies in wait; the tensors beside it are read."""
    trace = tmp_path / "trace"
    package = name.partition(".")[0]
    if package != "argparse":
        for module in name.split(".")[:-1]:
            tmp_path = tmp_path / module
            tmp_path.mkdir()
            (tmp_path / "__init__.py").write_text(f"open({str(trace)!r}, 'w')\n")
        tmp_path = trace.parent
        monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "last.ckpt"
    save_with(Planted(name, f"open({str(trace)!r}, 'w')"), path, is_zip=is_zip)
    before = set(sys.modules)
    found = imagetok.convert(path, "taming", tmp_path / "out", size=32)
    assert not trace.exists()
    assert package not in sys.modules.keys() - before
    save_file(weights(), tmp_path / "plain.safetensors")
    plain = imagetok.convert(tmp_path / "plain.safetensors", "taming", tmp_path / "plain", size=32)
    assert found.tokenizer.fingerprint == plain.tokenizer.fingerprint


def test_a_torchscript_archive_is_refused(tmp_path):
    torch.jit.script(nn.Conv2d(3, 8, 1)).save(tmp_path / "model.pt")
    assert "TorchScript" in refusal(tmp_path / "model.pt", tmp_path / "out")


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999])
def test_a_torn_file_is_refused(ending, share, tmp_path):
    whole, torn = tmp_path / f"whole{ending}", tmp_path / f"torn{ending}"
    if ending == ".safetensors":
        save_file(weights(), whole)
    else:
        torch.save(weights(), whole)
    content = whole.read_bytes()
    torn.write_bytes(content[: int(len(content) * share)])
    message = refusal(torn, tmp_path / "out")
    assert "torn" in message
    assert "weights_only=False" not in message


def renamed(state: dict[str, Tensor]) -> None:
    state["encoder.conv_out2.weight"] = state.pop("encoder.conv_out.weight")


def without(state: dict[str, Tensor]) -> None:
    del state["decoder.mid.block_1.conv1.bias"]


def with_another(state: dict[str, Tensor]) -> None:
    state["decoder.mid.block_3.conv1.bias"] = torch.zeros(4)


def reshaped(state: dict[str, Tensor]) -> None:
    state["decoder.mid.block_1.conv1.weight"] = torch.zeros(64, 64, 1, 3)


def not_finite(state: dict[str, Tensor]) -> None:
    state["decoder.mid.block_1.conv1.weight"][0, 0] = torch.nan


def whole_numbers(state: dict[str, Tensor]) -> None:
    state["decoder.conv_out.bias"] = torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (renamed, ("encoder.conv_out.weight",)),
        (without, ("1 tensor missing (decoder.mid.block_1.conv1.bias)",)),
        (with_another, ("1 tensor too many (decoder.mid.block_3.conv1.bias)",)),
        (reshaped, ("decoder.mid.block_1.conv1.weight", "(64, 64, 3, 3)", "(64, 64, 1, 3)")),
        (not_finite, ("NaN", "decoder")),
        (whole_numbers, ("decoder.conv_out.bias", "torch.int64")),
    ],
)
def test_other_tensors_are_refused_by_name(
    change: Callable[[dict[str, Tensor]], None], words: tuple[str, ...], tmp_path: Path
):
    state = weights()
    change(state)
    save_file(state, tmp_path / "changed.safetensors")
    message = refusal(tmp_path / "changed.safetensors", tmp_path / "out")
    assert all(word in message for word in words), message


def named_taming(path: Path) -> Path:
    save_file(weights(), path)
    return path


@pytest.mark.parametrize("family", ["llamagen", "diffusers", "emu3"])
def test_another_familys_weights_are_refused(family, tmp_path):
    path = named_taming(tmp_path / "model.safetensors")
    assert "family" in refusal(path, tmp_path / "out", family)


def test_amused_is_not_taken_for_a_model_with_other_pixels(tmp_path):
    path = named_taming(tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "amused/amused-256"}))
    assert "--from amused" in refusal(path, tmp_path / "out", "diffusers")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"norm_type": "spatial"}, "norm_type 'spatial'"),
        ({"down_block_types": ["CrossAttnDownBlock2D"]}, "CrossAttnDownBlock2D"),
        ({"act_fn": "gelu"}, "act_fn 'gelu'"),
    ],
)
def test_a_config_that_the_network_does_not_hold_is_refused(config, words, tmp_path):
    path = named_taming(tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert words in refusal(path, tmp_path / "out", "diffusers")


def test_two_tokenizers_in_a_file_need_a_prefix(tmp_path):
    both: Mapping[str, Tensor] = {
        f"{stage}_stage_model.{name}": tensor
        for stage in ("first", "cond")
        for name, tensor in weights().items()
    }
    save_file(dict(both), tmp_path / "transformer.safetensors")
    path = tmp_path / "transformer.safetensors"
    message = refusal(path, tmp_path / "out")
    assert "cond_stage_model., first_stage_model." in message
    assert "'cond_stage_model.'" in refusal(path, tmp_path / "out", prefix="other.")
    found = imagetok.convert(path, "taming", tmp_path / "out", size=32, prefix="first_stage_model.")
    alone = named_taming(tmp_path / "alone.safetensors")
    whole = imagetok.convert(alone, "taming", tmp_path / "alone", size=32)
    assert found.tokenizer.fingerprint == whole.tokenizer.fingerprint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"family": "llama"}, "did you mean 'llamagen'"),
        ({"size": 0}, "size"),
        ({"size": 33}, "multiples of 4"),
        ({"file": "../weights.pt"}, "inside the folder"),
        ({"file": "other.pt"}, "name one with file"),
        ({"prefix": "other."}, "prefix"),
    ],
)
def test_unfit_arguments_are_refused(options, words, tmp_path):
    (tmp_path / "in").mkdir()
    named_taming(tmp_path / "in" / "model.safetensors")
    known: dict[str, Any] = {"family": "taming", "size": 32, "file": "model.safetensors"}
    with pytest.raises((ConfigError, InputError), match=words):
        imagetok.convert(tmp_path / "in", out=tmp_path / "out", **(known | options))
    assert not (tmp_path / "out").exists()


def test_what_a_folder_holds_is_said(tmp_path):
    (tmp_path / "in").mkdir()
    assert "found no weights" in refusal(tmp_path / "in", tmp_path / "out")
    named_taming(tmp_path / "in" / "vqgan.safetensors")
    assert "vqgan.safetensors; name one with file" in refusal(tmp_path / "in", tmp_path / "out")
    assert "no such file or folder" in refusal(tmp_path / "none" / "a.pt", tmp_path / "out")


def test_an_output_folder_with_files_is_left_alone(tmp_path):
    path = named_taming(tmp_path / "model.safetensors")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ConfigError, match="not empty"):
        imagetok.convert(path, "taming", tmp_path / "out", size=32)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "names",
    [{"a": "../../outside.safetensors"}, {"a": 1}, [], {"a": "model.bin"}],
    ids=["outside", "number", "list", "pickle"],
)
def test_an_index_that_names_other_files_is_refused(names, tmp_path):
    (tmp_path / "in").mkdir()
    index = tmp_path / "in" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    assert "index.json" in refusal(tmp_path / "in", tmp_path / "out", "janus")


def test_the_command_says_what_is_wrong_and_how_it_ends(tmp_path, capsys):
    path = tmp_path / "last.ckpt"
    save_with(Planted("os.system", "true"), path)
    words = ["convert", str(path), "--from", "taming", "--out", str(tmp_path / "out")]
    assert _run(words) == 3
    assert "nothing was run" in capsys.readouterr().err
    assert _run([*words[:3], "tamin", *words[4:]]) == 2
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/constants.pkl", b"")
    assert _run(["convert", str(tmp_path / "x.pt"), *words[2:]]) == 3
