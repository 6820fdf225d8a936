"""Damaged, ambiguous and odd weights, and what lies beside them, are refused in one message."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn_weights import drawn_weights
from safetensors.torch import save_file
from test_conversion_refusals import Planted, named_taming, refusal, save_with, weights
from torch import Tensor

import imagetok
from cli.main import _run
from imagetok.conversion.families import canonical_names, check_layers, find_family
from imagetok.errors import ConfigError, InputError

DATA = Path(__file__).parent / "data"
LLAMAGEN = json.loads((DATA / "llamagen.json").read_text())
BIAS = "decoder.conv_in.bias"
CODEBOOK = "quantize.embedding.weight"
INDEX = "model.safetensors.index.json"
Change = Callable[[dict[str, Any]], object]


def rewritten(path: Path, change: Callable[[str, bytes], bytes], compression: int = 0) -> None:
    """Write the entries of a checkpoint anew, with their checksums."""
    torch.save(weights(), path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name, content))


def fingerprint(source: Path, out: Path, family: str = "taming") -> str:
    return imagetok.convert(source, family, out, size=32).tokenizer.fingerprint


# Checkpoints of torch.save


def test_a_compressed_checkpoint_gives_its_weights(tmp_path):
    rewritten(tmp_path / "small.ckpt", lambda name, content: content, zipfile.ZIP_DEFLATED)
    plain = named_taming(tmp_path / "plain.safetensors")
    found = fingerprint(tmp_path / "small.ckpt", tmp_path / "a")
    assert found == fingerprint(plain, tmp_path / "b")


def test_a_checkpoint_with_a_short_entry_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    rewritten(
        path, lambda name, content: content[: len(content) // 2 if "/data/0" in name else None]
    )
    assert "no readable file of weights" in refusal(path, tmp_path / "out")


def test_a_checkpoint_with_a_changed_byte_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    rewritten(path, lambda name, content: content)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "the checksum" in refusal(path, tmp_path / "out")


def test_a_checkpoint_with_two_entries_of_a_name_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save(weights(), path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("last/data/0", b"")
    assert "last/data/0 is there twice" in refusal(path, tmp_path / "out")


def test_the_first_container_that_holds_tensors_is_read(tmp_path):
    torch.save({"ema": {"decay": 0.999}, "model": weights()}, tmp_path / "a.pt")
    torch.save({"ema": weights(), "model": {"encoder.conv_in.weight": 1}}, tmp_path / "b.pt")
    plain = fingerprint(named_taming(tmp_path / "c.safetensors"), tmp_path / "c")
    assert fingerprint(tmp_path / "a.pt", tmp_path / "a") == plain
    assert fingerprint(tmp_path / "b.pt", tmp_path / "b") == plain


def test_the_name_of_a_planted_class_is_shown_whole_and_harmless(tmp_path):
    save_with(Planted("a\x1b[31mb.c-d\x07e", "true"), tmp_path / "last.ckpt")
    message = refusal(tmp_path / "last.ckpt", tmp_path / "out")
    assert "found a�[31mb.c-d�e, a class" in message


@pytest.mark.parametrize("name", ["none.pt", "none.safetensors"])
def test_a_file_without_tensors_is_refused(name, tmp_path):
    if name.endswith(".pt"):
        torch.save({"state_dict": {"step": 1}}, tmp_path / name)
    else:
        save_file({}, tmp_path / name)
    assert "expected named tensors, found none" in refusal(tmp_path / name, tmp_path / "out")


# Tensors


def replaced(name: str, change: Callable[[Tensor], Any]) -> Change:
    return lambda state: state.update({name: change(state[name])})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replaced(BIAS, lambda t: t.to("meta")), (BIAS, "without content")),
        (replaced(BIAS, lambda t: t.to_sparse()), (BIAS, "sparse")),
        (replaced(BIAS, lambda t: t.to(torch.float8_e8m0fnu)), (BIAS, "float8_e8m0fnu")),
        (replaced(BIAS, lambda t: t.to(torch.complex64)), (BIAS, "complex64")),
        (replaced(BIAS, lambda t: torch.zeros(1).expand_as(t)), (BIAS, "repeats")),
        (
            replaced(CODEBOOK, lambda t: torch.zeros(1).expand(2**24, t.shape[1])),
            (CODEBOOK, "repeats"),
        ),
        (
            replaced(BIAS, lambda t: torch.full(t.shape, 1e300, dtype=torch.float64)),
            (BIAS, "infinity"),
        ),
        (replaced(CODEBOOK, lambda t: t[None]), (CODEBOOK, "2 dimensions", "(1, 64, 16)")),
        (replaced(CODEBOOK, lambda t: t[:0]), (CODEBOOK, "(0, 16)")),
        (
            replaced("encoder.conv_in.weight", lambda t: t[:0]),
            ("encoder.conv_in.weight", "(0, 3, 3, 3)"),
        ),
        (replaced("encoder.conv_in.weight", lambda t: t.flatten(2)), ("4 dimensions",)),
        (
            lambda s: s.update({f"encoder.down.{'9' * 5000}.block.0.x": torch.zeros(1)}),
            ("1 tensor too many",),
        ),
        (
            lambda s: s.update({"encoder.down.0.block.1000000000.x": torch.zeros(1)}),
            ("1 tensor too many",),
        ),
        (lambda s: s.update({"encoder.down.\u0663.x": torch.zeros(1)}), ("1 tensor too many",)),
        (lambda s: s.update({1: torch.zeros(1)}), ("names of tensors", "found 1")),
    ],
    ids=range(15),
)
def test_odd_tensors_are_refused_by_name(
    change: Change, words: tuple[str, ...], tmp_path: Path
) -> None:
    state: dict[str, Any] = dict(weights())
    change(state)
    torch.save(state, tmp_path / "odd.pt")
    message = refusal(tmp_path / "odd.pt", tmp_path / "out")
    assert all(word in message for word in words), message


def test_packed_numbers_of_safetensors_are_refused(tmp_path):
    packed = torch.zeros(32, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    save_file(weights() | {BIAS: packed}, tmp_path / "odd.safetensors")
    assert "float4" in refusal(tmp_path / "odd.safetensors", tmp_path / "out")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized_tensors_are_refused(tmp_path):
    state = weights()
    state[BIAS] = torch.quantize_per_tensor(state[BIAS], 0.1, 0, torch.qint8)
    torch.save(state, tmp_path / "odd.pt")
    assert "qint8" in refusal(tmp_path / "odd.pt", tmp_path / "out")


def test_weights_that_are_not_finite_are_not_called_diverged_training_of_ours(tmp_path):
    state = weights()
    state[BIAS][0] = torch.nan
    save_file(state, tmp_path / "nan.safetensors")
    message = refusal(tmp_path / "nan.safetensors", tmp_path / "out")
    assert f"{BIAS}: expected finite weights, found NaN" in message
    assert "learning_rate" not in message


# Whose weights they are


@pytest.mark.parametrize("family", ["llamagen", "diffusers", "amused", "emu3"])
def test_weights_with_the_names_of_taming_are_refused_with_its_families(family, tmp_path):
    path = named_taming(tmp_path / "model.safetensors")
    message = refusal(path, tmp_path / "out", family)
    assert "--from taming or janus or chameleon" in message
    assert "\n" not in message


@pytest.mark.parametrize("family", ["taming", "janus", "chameleon", "diffusers", "emu3"])
def test_llamagens_weights_are_refused_with_its_name(family, tmp_path):
    torch.save(drawn_weights(LLAMAGEN), tmp_path / "model.pt")
    assert "--from llamagen" in refusal(tmp_path / "model.pt", tmp_path / "out", family)


def test_the_names_of_a_familys_layers_are_no_others():
    names = {
        "taming": "decoder.mid.block_1.norm1.weight",
        "llamagen": "decoder.mid.0.norm1.weight",
        "diffusers": "decoder.mid_block.resnets.0.norm1.weight",
        "emu3": "decoder.middle_block.block_1.norm1.weight",
    }
    for own in names:
        for theirs, name in names.items():
            if own == theirs:
                check_layers(find_family(own), [name], "weights")
            else:
                with pytest.raises(InputError, match=f"--from {theirs}"):
                    check_layers(find_family(own), [name], "weights")


@pytest.mark.parametrize(
    ("config", "family", "words"),
    [
        ({"model_type": "janus_vqgan"}, "chameleon", "--from janus"),
        ({"model_type": "chameleon"}, "taming", "--from chameleon"),
        ({"model_type": "emu3"}, "taming", "--from emu3"),
        ({"_class_name": "VQModel"}, "taming", "--from diffusers or amused"),
        ({"vq_config": {"model_type": "janus_vqgan"}}, "taming", "--from janus"),
    ],
)
def test_a_config_of_another_family_is_refused(config, family, words, tmp_path):
    path = named_taming(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert words in refusal(path, tmp_path / "out", family)


def test_two_names_of_one_tensor_are_refused(tmp_path):
    state = drawn_weights(LLAMAGEN)
    names = ["decoder.conv_blocks.1.res.0.x", "decoder.conv_blocks.01.res.0.x"]
    torch.save(state | dict.fromkeys(names, torch.zeros(1)), tmp_path / "both.pt")
    message = refusal(tmp_path / "both.pt", tmp_path / "out", "llamagen")
    assert all(name in message for name in names)
    attention = "encoder.mid_block.attentions.0"
    with pytest.raises(InputError, match=r"attentions.0.query.* and .*attentions.0.to_q"):
        canonical_names(
            find_family("diffusers"), [f"{attention}.query.x", f"{attention}.to_q.x"], "weights"
        )


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    save_file({BIAS: torch.zeros(64), "other": torch.zeros(1)}, folder / shards[0])
    save_file(weights(), folder / shards[1])
    index = dict.fromkeys(weights(), shards[1]) | {"other": shards[0]}
    (folder / INDEX).write_text(json.dumps({"weight_map": index}))
    message = refusal(folder, tmp_path / "out", file=INDEX)
    assert all(word in message for word in (BIAS, *shards))


# What lies beside the weights


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ([1], "expected a JSON object, found [1]"),
        ("x", "expected a JSON object"),
        (None, "expected a JSON object"),
        ({"vq_config": "x"}, "vq_config, found 'x'"),
        ({"vq_config": [1]}, "vq_config, found [1]"),
        ({"down_block_types": 5}, "down_block_types 5"),
        ({"down_block_types": [["a"]]}, "down_block_types [['a']]"),
        ({"up_block_types": [1, "a"]}, "up_block_types [1, 'a']"),
        ({"down_block_types": None}, "down_block_types None"),
        ({"norm_num_groups": "32"}, "whole number as norm_num_groups"),
        ({"norm_num_groups": True}, "found True"),
        ({"norm_num_groups": 32.0}, "found 32.0"),
        ({"norm_num_groups": 0}, "found 0"),
        ({"norm_num_groups": 10**30}, "whole number as norm_num_groups"),
    ],
    ids=range(14),
)
def test_a_config_of_unfit_types_is_refused(config, words, vqmodel, tmp_path):
    (vqmodel / "config.json").write_text(json.dumps(config))
    message = refusal(vqmodel, tmp_path / "out", "diffusers")
    assert words in message
    assert "\n" not in message


def test_only_a_config_of_the_tokenizer_states_its_groups(tmp_path):
    """Groups of another model's norms, as in the config of a language model, are not read."""
    path = named_taming(tmp_path / "last.safetensors")
    plain = fingerprint(path, tmp_path / "plain")
    (tmp_path / "config.json").write_text(json.dumps({"norm_num_groups": 8}))
    assert fingerprint(path, tmp_path / "out") == plain


def test_what_is_assumed_is_said(vqmodel, tmp_path):
    stated = imagetok.convert(vqmodel, "diffusers", tmp_path / "a", size=32)
    assert not any("norm_num_groups" in text for text in stated.remarks)
    assert any("[-1, 1]" in text and "--from amused" in text for text in stated.remarks)
    assert stated.remarks[0] in (tmp_path / "a" / "README.md").read_text()
    (vqmodel / "config.json").unlink()
    alone = imagetok.convert(vqmodel, "amused", tmp_path / "b", size=32)
    assert any("norm_num_groups" in text and "32" in text for text in alone.remarks)
    assert any("[0, 1]" in text and "--from diffusers" in text for text in alone.remarks)


def test_only_the_word_amused_names_it(vqmodel, tmp_path):
    folder = vqmodel.rename(tmp_path / "unamused")
    assert fingerprint(folder, tmp_path / "out", "diffusers")
    folder = folder.rename(tmp_path / "aMUSEd-256")
    assert "--from amused" in refusal(folder, tmp_path / "other", "diffusers")


@pytest.mark.parametrize(
    ("card", "license"),
    [
        ("---\nlicense: mit # really\n---\n", "mit"),
        ("\ufeff---\r\nlicense: mit\r\n---\r\n", "mit"),
        ("---\nlicense: >\n  my\n  license\n---\n", "my license"),
        ("---\nlicense: other\nlicense_name: mine\n---\n", "mine"),
        ("---\nlicense: mit\nlicense_name:\n---\n", "mit"),
        ("---\nmodel:\n  license: gpl\n---\n", None),
        ("---\nlicense:\nlanguage: en\n---\n", None),
        ("---\nlicense:\n- mit\n---\n", None),
        ("---\nlicense: {\n---\n", None),
        (f"---\nlicense: {'[' * 5000}\n---\n", None),
        ("license: mit\n", None),
    ],
    ids=range(11),
)
def test_the_license_is_a_text_of_the_cards_front_matter(card, license, tmp_path):
    path = named_taming(tmp_path / "last.safetensors")
    (tmp_path / "README.md").write_bytes(card.encode())
    found = imagetok.convert(path, "taming", tmp_path / "out", size=32).license
    assert found == license or (license is None and "not stated" in found)


def test_foreign_texts_cannot_change_the_card(tmp_path):
    prefix = "`</code><b>\n# x."
    save_file({f"{prefix}{name}": t for name, t in weights().items()}, tmp_path / "a.safetensors")
    found = imagetok.convert(
        tmp_path / "a.safetensors", "taming", tmp_path / "out", size=32, license="x\n---\n<b>"
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert found.license == "x --- <b>"
    assert "<b>" not in card
    assert "\n# x" not in card


@pytest.mark.parametrize(
    "content",
    ['{"weight_map": {}}', "[]", "[" * 100_000, '{"weight_map": NaN}', '{"weight_map": null}'],
    ids=["empty", "list", "deep", "nan", "null"],
)
def test_a_damaged_index_is_refused(content, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / INDEX).write_text(content)
    assert "index.json" in refusal(tmp_path / "in", tmp_path / "out", "janus")


# Arguments


def test_names_that_are_too_long_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    long = f"{'a' * 5000}.pt"
    assert "cannot be read" in refusal(long, tmp_path / "out")
    assert "cannot be read" in refusal(tmp_path / "in", tmp_path / "out", file=long)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("size", ["32", 32.0, True, -4, 2**16 + 4])
def test_a_size_that_is_no_number_of_pixels_is_refused(size, tmp_path):
    path = named_taming(tmp_path / "last.safetensors")
    with pytest.raises(ConfigError, match="size"):
        imagetok.convert(path, "taming", tmp_path / "out", size=size)


def test_a_folder_that_was_filled_meanwhile_is_left_alone(tmp_path, monkeypatch):
    path = named_taming(tmp_path / "last.safetensors")
    out = tmp_path / "out"
    kept = imagetok.Tokenizer.requires_grad_

    def fill(self: Any, *args: Any) -> Any:
        out.mkdir(exist_ok=True)
        (out / "mine").touch()
        return kept(self, *args)

    monkeypatch.setattr(imagetok.Tokenizer, "requires_grad_", fill)
    with pytest.raises(ConfigError, match="not empty"):
        imagetok.convert(path, "taming", out, size=32)
    assert [p.name for p in out.iterdir()] == ["mine"]


def test_the_command_names_the_option_for_a_file(tmp_path, capsys):
    named_taming(tmp_path / "other.safetensors")
    words = ["convert", str(tmp_path), "--from", "taming", "--out", str(tmp_path / "out")]
    assert _run(words) == 3
    assert "other.safetensors; name one with file (--file)" in capsys.readouterr().err


@pytest.fixture
def vqmodel(tmp_path: Path) -> Path:
    """A folder with a small VQModel of diffusers."""
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.VQModel(block_out_channels=(32,), num_vq_embeddings=8)
    model.save_pretrained(tmp_path / "vqmodel")
    return tmp_path / "vqmodel"
