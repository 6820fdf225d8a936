"""Artifact folders: round trips, what a fingerprint covers, and every damage."""

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from representative import slow_but
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from imagetok import artifacts
from imagetok.durable import MANIFEST, verify_folder
from imagetok.errors import ArtifactError
from imagetok.tokenizers import Autoencoder, Tokenizer
from imagetok.tokenizers.flat import FlatTokenizer
from imagetok.tokenizers.vae import VAE

Build = Callable[..., Tokenizer]
IMAGES = torch.rand(3, 3, 8, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def folder(tmp_path: Path, build: Build) -> Path:
    build().save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def change_config(folder: Path, change: Callable[[dict], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def refused(folder: Path, says: str) -> None:
    with pytest.raises(ArtifactError, match=says):
        Tokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["edvae", "dvae", "vqvae-ema"])
def test_a_loaded_tokenizer_is_the_saved_one(tmp_path: Path, build: Build, kind: str) -> None:
    saved = build(kind)
    computed = saved.fingerprint
    saved.save_pretrained(tmp_path / "t", metrics={"psnr_db (test)": 20.5})
    loaded = Tokenizer.from_pretrained(tmp_path / "t")
    assert loaded.fingerprint == saved.fingerprint == computed
    assert loaded.config == saved.config and not loaded.training
    state = saved.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    assert torch.equal(loaded.encode(IMAGES)[0], saved.encode(IMAGES)[0])
    assert torch.equal(loaded.reconstruct(IMAGES), saved.reconstruct(IMAGES))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_key_added_since_changes_no_fingerprint(folder: Path, tmp_path: Path) -> None:
    """An artifact of before `kl` and `evidence` were keys stays what its codes are bound to."""
    config = json.loads((folder / "config.json").read_text())
    for key in ("kl", "evidence"):
        del config["architecture"]["quantizer"][key]
    fingerprint = artifacts.fingerprint_of(
        "tokenizer", config["architecture"], load_file(folder / "model.safetensors")
    )
    change_config(folder, lambda c: c.update(config, fingerprint=fingerprint))
    Tokenizer.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert Tokenizer.from_pretrained(tmp_path / "again").fingerprint == fingerprint


def test_saving_twice_gives_the_same_bytes(tmp_path: Path, build: Build) -> None:
    build().save_pretrained(tmp_path / "a")
    Tokenizer.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["README.md", "config.json", MANIFEST, "model.safetensors"]
    assert all(
        (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        for name in files
    )
    assert verify_folder(tmp_path / "a") == []


def test_whoever_may_read_the_config_may_read_the_weights(folder: Path) -> None:
    modes = {path.stat().st_mode for path in folder.iterdir() if path.is_file()}
    assert len(modes) == 1


def test_the_card_holds_the_numbers_it_was_given(tmp_path: Path, build: Build) -> None:
    tokenizer = build()
    tokenizer.save_pretrained(tmp_path / "t", metrics={"psnr_db (test)": 20.5})
    card = (tmp_path / "t" / "README.md").read_text()
    assert "| psnr_db (test) | 20.5 |" in card and tokenizer.fingerprint in card


def test_a_fingerprint_changes_with_any_weight(build: Build) -> None:
    tokenizer = build("vqvae-ema")
    seen = {tokenizer.fingerprint}
    state = tokenizer.state_dict()
    for tensor in state.values():
        last = tensor.view(-1)[-1:]
        last.copy_(torch.nextafter(last, torch.tensor([torch.inf])))
        seen.add(tokenizer.fingerprint)
    assert len(seen) == 1 + len(state)


def test_a_fingerprint_changes_with_names_shapes_and_dtypes() -> None:
    def fingerprint(kind: str = "tokenizer", **tensors: Tensor) -> str:
        return artifacts.fingerprint_of(kind, {}, tensors)

    zeros = torch.zeros(2, 3)
    others = [
        fingerprint("prior", a=zeros),
        fingerprint(b=zeros),
        fingerprint(a=zeros.view(3, 2)),
        fingerprint(a=zeros.to(torch.int32)),
        fingerprint(a=zeros, b=zeros[:0]),
        fingerprint(),
    ]
    assert len({fingerprint(a=zeros), *others}) == 7
    assert fingerprint(a=torch.arange(6.0).view(2, 3)) == fingerprint(
        a=torch.arange(6.0).view(2, 3).T.contiguous().T
    )


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("image", {"interpolation": "nearest"}),
        ("image", {"height": 10}),
        ("image", {"centre_crop": 7}),
        ("network", {"residual_gain": 0.25}),
        ("quantizer", {"test_rule": "sample"}),
        ("quantizer", {"max_logit": 10.0}),
    ],
)
def test_a_fingerprint_changes_with_the_architecture(
    build: Build, folder: Path, section: str, change: dict[str, object]
) -> None:
    tokenizer = build()
    architecture = tokenizer.config.model_dump(mode="json")
    architecture[section] |= change
    changed = artifacts.fingerprint_of("tokenizer", architecture, tokenizer.state_dict())
    assert changed != tokenizer.fingerprint
    change_config(folder, lambda config: config["architecture"][section].update(change))
    refused(folder, "expected fingerprint [0-9a-f]{16}, found [0-9a-f]{16}")


def test_a_fingerprint_stays_with_what_was_saved(folder: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(folder)
    fingerprint = tokenizer.fingerprint
    for changed in (tokenizer.to(torch.float64), tokenizer.half(), tokenizer.to("meta")):
        assert changed.fingerprint == fingerprint


def same_tokenizer(folder: Path, expected: Tokenizer) -> bool:
    """False where the folder is refused; an AssertionError where it loads as another tokenizer."""
    try:
        found = Tokenizer.from_pretrained(folder)
    except ArtifactError:
        return False
    assert found.fingerprint == expected.fingerprint and found.config == expected.config
    state = expected.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in found.state_dict().items())
    return True


@pytest.mark.parametrize("amount", [0.2, pytest.param(1, marks=pytest.mark.slow)])
def test_no_flipped_byte_of_the_weights_is_loaded(folder: Path, amount: float) -> None:
    expected = Tokenizer.from_pretrained(folder)
    path = folder / "model.safetensors"
    content = path.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    loaded = []
    tried = [*range(0, header, 9), *range(header, len(content), len(content) // 40)]
    for position in tried[:: round(1 / amount)]:
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        if same_tokenizer(folder, expected):
            loaded.append(position)
    # The header also has a comment that says nothing about tensors: {"format": "pt"}.
    comment = content.index(b"__metadata__")
    assert all(comment <= position < content.index(b"}", comment) for position in loaded)
    path.write_bytes(content)
    assert same_tokenizer(folder, expected)


@pytest.mark.parametrize("bit", slow_but([1], [1, 2, 0x10, 0x80]))
def test_no_flipped_byte_of_the_config_is_loaded(folder: Path, bit: int) -> None:
    expected = Tokenizer.from_pretrained(folder)
    path = folder / "config.json"
    content = path.read_bytes()
    loaded = []
    for position in range(bit % 5, len(content), 5):
        damaged = bytearray(content)
        damaged[position] ^= bit
        path.write_bytes(damaged)
        if same_tokenizer(folder, expected):
            loaded.append(position)
    # The version that wrote it is a note for messages.
    note = content.index(b'"imagetok_version"')
    assert all(note <= position < content.index(b"\n", note) for position in loaded)


def test_no_truncated_file_is_loaded(folder: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        content = (folder / name).read_bytes()
        kept = content.rstrip()
        for length in [0, 1, 7, 8, 9, len(kept) // 2, len(kept) - 1]:
            (folder / name).write_bytes(kept[:length])
            refused(folder, name)
        (folder / name).write_bytes(content + b"\0" * 8)
        refused(folder, name)
        (folder / name).write_bytes(content)
    Tokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "says"), [("config.json", "has no config.json"), ("model.safetensors", "has no model")]
)
def test_a_missing_file_is_refused(folder: Path, name: str, says: str) -> None:
    (folder / name).unlink()
    refused(folder, says)
    (folder / name).mkdir()
    refused(folder, name)


def test_a_missing_folder_is_refused_and_a_run_folder_gets_a_hint(folder: Path) -> None:
    refused(folder / "nowhere", "no such folder")
    refused(folder / "config.json", f"found a file in it; pass {folder}")
    for name in ("old.ckpt", "notes.txt"):
        (folder.parent / name).write_text("")
        refused(folder.parent / name, "expected the folder of a tokenizer.*found a")
    refused(folder.parent, f"did you mean {folder}")


def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "sprung",)

    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    refused(folder, r"damaged or truncated|header of at most")
    torch.save({"weight": torch.zeros(1), "trap": Trap()}, folder / "model.safetensors")
    refused(folder, "damaged or truncated|header of at most")
    (folder / "config.json").write_bytes(pickle.dumps(Trap()))
    refused(folder, "not JSON")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(kind="prior"), "expected a tokenizer, found a prior"),
        (
            lambda c: c.update(format_version=2),
            r"expected format 1, found 2, which imagetok .* wrote",
        ),
        (lambda c: c.update(extra=1), "expected exactly the keys"),
        (lambda c: c.pop("fingerprint"), "expected exactly the keys"),
        (lambda c: c.update(fingerprint="0" * 64), "expected fingerprint 0{16}, found"),
        (lambda c: c.update(fingerprint=None), "expected fingerprint None, found"),
        (lambda c: c.update(architecture=[]), "architecture: expected a mapping"),
        (lambda c: c["architecture"].update(new=1), "new: unknown key"),
        (lambda c: c["architecture"].pop("image"), "image: missing"),
        (
            lambda c: c["architecture"]["quantizer"].update(kind="vqvae-3"),
            "quantizer.kind: expected one of",
        ),
        (lambda c: c["architecture"]["quantizer"].update(num_codes=17), "expected shape"),
        (lambda c: c["architecture"]["quantizer"].update(kind="dvae"), "unknown keys .*max_logit"),
        (lambda c: c["architecture"]["network"].update(blocks=2), "missing .*, extra"),
        (lambda c: c["architecture"]["network"].update(width=-8), "greater than or equal to 4"),
        (lambda c: c["architecture"]["image"].update(height=4096), "fingerprint"),
        (lambda c: c["architecture"]["image"].update(height=10**6), "less than or equal to 65536"),
        (lambda c: c["architecture"]["quantizer"].update(num_codes=2**24), "expected shape"),
        (lambda c: c["architecture"]["quantizer"].update(num_codes=10**30), "less than or equal"),
    ],
)
def test_a_changed_config_is_refused(
    folder: Path, change: Callable[[dict], object], says: str
) -> None:
    change_config(folder, change)
    refused(folder, says)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", "[" * 100_000, '{"kind": NaN}'], ids=range(6)
)
def test_what_is_no_config_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, r"config\.json")


def test_weights_of_another_form_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = "quantizer.codebook"
    for changed, says in [
        ({k: v for k, v in tensors.items() if k != name}, "missing .*quantizer.codebook"),
        (tensors | {"more": torch.zeros(1)}, "extra .*more"),
        (tensors | {name: tensors[name][:-1].clone()}, "quantizer.codebook: expected shape"),
        (tensors | {name: tensors[name].half()}, r"expected torch\.float32, found torch\.float16"),
        (tensors | {name: tensors[name] + 1}, "the weights or the config were changed"),
    ]:
        save_file(changed, path, metadata={"format": "pt"})
        refused(folder, says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda t: setattr(t.quantizer, "codebook", nn.Parameter(torch.zeros(17, 4))),
            r"quantizer\.codebook: expected shape \(\d+, 4\), found \(17, 4\)",
        ),
        (lambda t: setattr(t, "decoder", nn.Identity()), r"missing \['decoder\..*extra \[\]"),
        (lambda t: t.register_buffer("mean", torch.zeros(1)), r"missing \[\], extra \['mean'\]"),
        (lambda t: t.half(), r"expected torch\.float32, found torch\.float16"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(
    folder: Path, build: Build, change: Callable[[Tokenizer], object], says: str
) -> None:
    """Refused before anything is written: what was there before stays."""
    tokenizer = build()
    change(tokenizer)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ArtifactError, match=says):
        tokenizer.save_pretrained(folder)
    with pytest.raises(ArtifactError, match="not saved, because it could not be loaded again"):
        tokenizer.push_to_hub("user/name")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    Tokenizer.from_pretrained(folder)


@pytest.mark.parametrize("quantizer", [{}, {"kind": "rotation-vq"}])
def test_saving_draws_nothing_from_the_global_generator(
    tmp_path: Path, build: Build, quantizer: dict[str, str]
) -> None:
    """The modules of vector-quantize-pytorch are made on the CPU also for a comparison."""
    tokenizer = build(**quantizer)
    state = torch.random.get_rng_state()
    tokenizer.save_pretrained(tmp_path / "t")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_class_loads_no_other(folder: Path) -> None:
    assert type(Autoencoder.from_pretrained(folder)) is FlatTokenizer
    assert type(FlatTokenizer.from_pretrained(folder)) is FlatTokenizer
    with pytest.raises(ArtifactError, match="expected a VAE, found a FlatTokenizer"):
        VAE.from_pretrained(folder)


def test_weights_of_another_tokenizer_are_refused(
    folder: Path, tmp_path: Path, build: Build
) -> None:
    build(seed=1).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    refused(folder, "expected fingerprint")
