"""Priors go on with a tokenizer whose decoder alone was trained again."""

from pathlib import Path

import pytest
import torch
from relatives import with_new_decoder
from sampling_parts import make_prior_folder
from test_prior_training import COUNT, encode_random, make_run

import prior as priors
from imagetok.errors import ConfigError, ShardError
from imagetok.tokenizers import Tokenizer
from prior.base import Prior
from prior.demo_session import DemoSession
from prior.generation import generate
from prior.loading import open_pair
from prior.training import open_data, train_prior


@pytest.fixture
def folder(tmp_path) -> Path:
    """A prior, and its tokenizer in `own` beside it."""
    return make_prior_folder(tmp_path / "made")


@pytest.fixture
def child(folder, tmp_path) -> Path:
    with_new_decoder(folder.parent / "own", tmp_path / "child")
    return tmp_path / "child"


@pytest.fixture
def stranger(tmp_path) -> Path:
    """A child of another tokenizer of the same architecture."""
    other = make_prior_folder(tmp_path / "other", seed=1)
    with_new_decoder(other.parent / "own", tmp_path / "stranger")
    return tmp_path / "stranger"


def test_the_same_codes_are_drawn_and_decoded_by_the_new_decoder(folder, child):
    drawn = [generate(open_pair(folder)[0], 3, tokenizer=t, seed=1) for t in (None, child)]
    codes = [generated.codes or () for generated in drawn]
    assert all(torch.equal(a, b) for a, b in zip(*codes, strict=True))
    new = Tokenizer.from_pretrained(child)
    torch.testing.assert_close(drawn[1].images, new.decode(codes[1]))
    assert not torch.equal(drawn[0].images, drawn[1].images)
    DemoSession(new, open_pair(folder)[0])


def test_a_tokenizer_of_other_codes_is_refused(folder, stranger):
    with pytest.raises(ShardError, match="belongs to tokenizer"):
        open_pair(folder, stranger)
    with pytest.raises(ShardError, match="belongs to tokenizer"):
        Prior.from_pretrained(folder).save_pretrained(folder.parent / "again", stranger)


def test_a_prior_may_embed_the_new_decoder(folder, child, tmp_path):
    Prior.from_pretrained(folder).save_pretrained(tmp_path / "again", child)
    assert priors.verify(tmp_path / "again").is_good
    model, embedded = open_pair(tmp_path / "again")
    assert embedded.fingerprint == Tokenizer.from_pretrained(child).fingerprint
    assert model.fingerprint == Prior.from_pretrained(folder).fingerprint


def test_samples_in_a_folder_are_of_one_decoder(folder, child, tmp_path):
    """Their pictures would not be of one tokenizer otherwise."""
    model = open_pair(folder)[0]
    generate(model, 2, out=tmp_path / "samples", seed=1)
    with pytest.raises(ConfigError, match="tokenizer"):
        generate(model, 4, tokenizer=child, out=tmp_path / "samples", seed=1)


@pytest.mark.slow  # trains two priors
def test_a_prior_is_trained_on_codes_of_either_with_either(tokenizer_folder, tmp_path):
    child = with_new_decoder(tokenizer_folder, tmp_path / "child")
    for name, made_by in {"old": tokenizer_folder, "new": tmp_path / "child"}.items():
        encode_random(made_by, tmp_path / name, COUNT)
    found = []
    for codes, tokenizer in (("old", tmp_path / "child"), ("new", tokenizer_folder)):
        run = tmp_path / f"on-{codes}"
        train_prior(make_run(tmp_path / codes, tokenizer), run)
        found.append(Prior.from_pretrained(run / "prior"))
    assert found[0].fingerprint == found[1].fingerprint
    assert found[0].config.tokenizer_fingerprint == child.codes_fingerprint


def test_codes_of_the_ancestor_alone_are_training_data(
    tokenizer_folder, other_tokenizer_folder, tmp_path
):
    child = with_new_decoder(tokenizer_folder, tmp_path / "child")
    for name, made_by in {"old": tokenizer_folder, "others": other_tokenizer_folder}.items():
        encode_random(made_by, tmp_path / name, COUNT)
    run = make_run(tmp_path / "old", tmp_path / "child")
    training, _ = open_data(run, child.codes_fingerprint)
    assert training.dataset.fingerprint == child.codes_fingerprint
    with pytest.raises(ShardError, match="belongs to tokenizer"):
        train_prior(make_run(tmp_path / "others", tmp_path / "child"), tmp_path / "run")
