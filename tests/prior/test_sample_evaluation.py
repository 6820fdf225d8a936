"""`prior.evaluate_samples` measures as `evaluate --samples` does, also what it draws itself."""

import pytest
import torch
from torch import nn

import imagetok
import prior
from imagetok import seeding
from imagetok.config import load_config
from imagetok.errors import ConfigError
from imagetok.tokenizers import build_tokenizer
from imagetok.training.config import TokenizerRun
from prior.build import build_prior
from prior.config import GPTConfig, PriorConfig

NETWORK = "python:test_sample_evaluation:network"


def network() -> nn.Module:
    """Features of pooled pixels."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A prior's folder with its tokenizer, neither trained."""
    from pathlib import Path

    folder = tmp_path_factory.mktemp("evaluated") / "prior"
    seeding.reseed_global(0)
    configs = Path(__file__).parents[2] / "configs"
    config = load_config(configs / "digits" / "edvae.yaml", TokenizerRun)
    tokenizer = build_tokenizer(config.tokenizer).eval()
    tokenizer.save_pretrained(folder.with_name("tokenizer"))
    made = build_prior(
        PriorConfig(
            tokenizer_fingerprint=tokenizer.fingerprint,
            num_codes=tokenizer.num_codes,
            grids=tokenizer.grids,
            num_classes=0,
            model=GPTConfig(layers=1, heads=1, width=8),
        )
    ).eval()
    made.save_pretrained(folder, tokenizer=folder.with_name("tokenizer"))
    return folder


def test_a_prior_its_samples_and_their_folder_are_measured_alike(saved, tmp_path):
    params = prior.SamplingParams(seed=3)
    folder = tmp_path / "drawn"
    file = tmp_path / "drawn.npz"
    drawn = prior.generate(saved, 24, seed=3, out=folder, npz=file, progress=False)
    tokenizer = saved.parent / "tokenizer"
    one = imagetok.evaluate(tokenizer, "digits:test", samples=folder, features=NETWORK)
    others = [
        prior.evaluate_samples(folder, "digits:test", features=NETWORK, tokenizer=tokenizer),
        prior.evaluate_samples(drawn, "digits:test", features=NETWORK),
        prior.evaluate_samples(
            saved, "digits:test", features=NETWORK, n=24, params=params, out=tmp_path / "x.json"
        ),
    ]
    for other in others:
        assert other.measures == one.measures and other.record["identity"] == one.record["identity"]
    same = imagetok.evaluate(tokenizer, "digits:test", samples=file, features=NETWORK)
    assert same.measures == one.measures
    told = others[2].record["subject"]["drawn_by"]
    assert (told["seed"], told["num_images"]) == (3, 24)
    beside = imagetok.evaluate(
        tokenizer, "digits:test", samples=folder, features=NETWORK, beside=tmp_path / "x.json"
    )
    assert beside.table()["num_samples"] == {"this": 24, str(tmp_path / "x.json"): 24}


def test_what_cannot_be_measured_is_refused(saved, tmp_path):
    (tmp_path / "drawn").mkdir()
    with pytest.raises(ConfigError, match="needs tokenizer="):
        prior.evaluate_samples(tmp_path / "drawn", "digits:test", features=NETWORK)
    with pytest.raises(ConfigError, match="add --features NETWORK"):
        prior.evaluate_samples(saved, "digits:test", features=(), n=4)
    assert torch.is_grad_enabled()
