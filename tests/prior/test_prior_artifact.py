"""Saved and loaded: the same prior bit for bit, with its tokenizer; anything changed is refused."""

import json
import random

import pytest
import torch

from imagetok.artifacts import CONFIG, WEIGHTS
from imagetok.durable import verify_folder
from imagetok.errors import ArtifactError, ShardError
from imagetok.tokenizers import Tokenizer
from prior import Prior
from prior.base import NO_LABEL


@pytest.fixture
def folder(bound, tokenizer_folder, tmp_path):
    bound.save_pretrained(tmp_path / "prior", tokenizer_folder, {"held-out bits_per_code": 2.25})
    return tmp_path / "prior"


def test_a_loaded_prior_is_the_saved_one_bit_for_bit(bound, folder, random_codes):
    loaded = Prior.from_pretrained(folder)
    assert loaded.config == bound.config
    assert loaded.fingerprint == bound.fingerprint
    assert not loaded.training
    codes, labels = random_codes(bound, 4), torch.tensor([0, 1, 2, NO_LABEL])
    with torch.no_grad():
        assert torch.equal(loaded(codes, labels)[0], bound(codes, labels)[0])
    assert torch.equal(loaded.log_prob(codes, labels), bound.log_prob(codes, labels))
    assert torch.equal(loaded.sample(20, seed=4)[0], bound.sample(20, seed=4)[0])


def test_the_tokenizer_travels_with_it(bound, folder, tokenizer_folder):
    embedded = Tokenizer.from_pretrained(folder / "tokenizer")
    assert embedded.fingerprint == bound.config.tokenizer_fingerprint
    assert embedded.decode(bound.sample(2)).shape == (2, 1, 6, 6)
    for file in tokenizer_folder.iterdir():
        assert (folder / "tokenizer" / file.name).read_bytes() == file.read_bytes()
    assert verify_folder(folder) == []
    card = (folder / "README.md").read_text()
    assert bound.fingerprint in card
    assert "| held-out bits_per_code | 2.25 |" in card


def test_another_tokenizer_is_not_embedded(bound, other_tokenizer_folder, tmp_path):
    with pytest.raises(ShardError, match=bound.config.tokenizer_fingerprint[:16]):
        bound.save_pretrained(tmp_path / "prior", other_tokenizer_folder)
    assert not (tmp_path / "prior").exists()


def test_what_could_not_be_loaded_is_not_saved(bound, folder, tokenizer_folder):
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    bound.double()
    with pytest.raises(ArtifactError, match=r"not saved.* expected torch\.float32, found"):
        bound.save_pretrained(folder, tokenizer_folder)
    bound.float().extra = torch.nn.Linear(1, 1)
    with pytest.raises(ArtifactError, match=r"extra \['extra\.bias', 'extra\.weight'\]"):
        bound.push_to_hub("user/name", tokenizer_folder)
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before
    del bound.extra
    bound.save_pretrained(folder, tokenizer_folder)
    assert Prior.from_pretrained(folder).fingerprint == bound.fingerprint


def test_codes_of_another_tokenizer_are_refused(bound):
    bound.check_tokenizer(bound.config.tokenizer_fingerprint, "here")
    with pytest.raises(ShardError, match=r"elsewhere: belongs to tokenizer 0000"):
        bound.check_tokenizer("0" * 64, "elsewhere")


@pytest.mark.parametrize("bound", ["gpt"], indirect=True)
def test_a_gpt_from_before_its_positions_were_a_choice(bound, tokenizer_folder, tmp_path):
    older = bound.config.model_dump(mode="json")
    del older["model"]["positions"]
    bound._loaded_architecture = older
    bound.save_pretrained(tmp_path / "prior", tokenizer_folder)
    loaded = Prior.from_pretrained(tmp_path / "prior")
    assert loaded.config == bound.config
    assert loaded.fingerprint == bound.fingerprint


def edit(folder, change) -> None:
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["architecture"].update(num_codes=[8]), "shape"),
        (lambda c: c["architecture"].update(num_classes=2), "class_names: expected 2"),
        (lambda c: c["architecture"].update(num_classes=2, class_names=["a", "b"]), "shape"),
        (lambda c: c["architecture"].update(grids=[[3, 4]]), "shape"),
        (lambda c: c["architecture"]["model"].update(layers=3), "missing"),
        (lambda c: c["architecture"]["model"].update(layers=1), "extra"),
        (lambda c: c["architecture"]["model"].update(heads=4), "fingerprint"),
        (lambda c: c["architecture"]["model"].update(dropout=0.2), "fingerprint"),
        (lambda c: c["architecture"].update(class_names=["a", "b", "d"]), "fingerprint"),
        (lambda c: c["architecture"].update(tokenizer_fingerprint="0" * 64), "fingerprint"),
        (lambda c: c["architecture"]["model"].update(kind="pickle"), "kind"),
        (lambda c: c["architecture"].update(auto_map={"AutoModel": "evil.Model"}), "auto_map"),
        (lambda c: c["architecture"]["model"].update(width=10**9), "width"),
        (lambda c: c["architecture"]["model"].update(layers=10**9), "layers"),
        (lambda c: c["architecture"].update(grids=[[10**6, 10**6]]), "codes per image"),
        (lambda c: c["architecture"].update(num_codes=[10**18]), "codes and classes"),
        (lambda c: c["architecture"].update(num_classes=10**18), "codes and classes"),
        (lambda c: c["architecture"].pop("grids"), "grids"),
        (lambda c: c.update(architecture=[]), "architecture: expected a mapping"),
        (lambda c: c.update(kind="tokenizer"), "expected a prior, found a tokenizer"),
        (lambda c: c.update(format_version=2), "expected format 1, found"),
        (lambda c: c.update(fingerprint="0" * 64), "fingerprint"),
        (lambda c: c.pop("fingerprint"), "exactly the keys"),
        (lambda c: c.update(extra=1), "exactly the keys"),
    ],
)
@pytest.mark.parametrize("bound", ["gpt"], indirect=True)
def test_a_changed_config_is_refused(change, message, folder):
    edit(folder, change)
    with pytest.raises(ArtifactError, match=message):
        Prior.from_pretrained(folder)


@pytest.mark.parametrize("bound", ["gpt"], indirect=True)
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_flipped_bits_are_refused(name, folder):
    path = folder / name
    data = path.read_bytes()
    draw = random.Random(name)
    note = data.find(b'"imagetok_version"')  # says who wrote it, and is bound to nothing
    for _ in range(60):
        place = draw.randrange(len(data))
        if name == CONFIG and note <= place < data.find(b"\n", note):
            continue
        damaged = bytearray(data)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError):
            Prior.from_pretrained(folder)


def test_cut_files_and_missing_ones_are_refused(folder):
    for name in (CONFIG, WEIGHTS):
        data = (folder / name).read_bytes()
        for size in (0, 7, len(data) // 2, len(data) - 2):
            (folder / name).write_bytes(data[:size])
            with pytest.raises(ArtifactError, match=name):
                Prior.from_pretrained(folder)
        (folder / name).unlink()
        with pytest.raises(ArtifactError, match=f"it has no {name}"):
            Prior.from_pretrained(folder)
        (folder / name).write_bytes(data)
    assert Prior.from_pretrained(folder).config.num_codes == (7,)


def test_other_folders_are_said_to_be_no_prior(folder, tokenizer_folder, tmp_path):
    with pytest.raises(ArtifactError, match="expected a prior, found a tokenizer"):
        Prior.from_pretrained(tokenizer_folder)
    with pytest.raises(ArtifactError, match=r"did you mean .*prior\?"):
        Prior.from_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="no such folder"):
        Prior.from_pretrained(tmp_path / "nowhere")
