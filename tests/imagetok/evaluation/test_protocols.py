"""Protocols fix counts, reference and crop, stand in the identity, and refuse anything else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import imagetok
from imagetok import seeding
from imagetok.config import load_config
from imagetok.data import open_images, parse_spec
from imagetok.data.subset import drawn_indices
from imagetok.errors import ConfigError
from imagetok.evaluation.distances import precision_recall
from imagetok.evaluation.feature_distances import FeatureSet, ManifoldCounts, compare_sets
from imagetok.evaluation.protocols import sample_count
from imagetok.protocols import PROTOCOLS, Protocol
from imagetok.tokenizers import Tokenizer, build_tokenizer
from imagetok.training.config import TokenizerRun

NETWORK = "python:test_protocols:network"
CONFIGS = Path(__file__).parents[3] / "configs"
TINY = Protocol(
    "tiny",
    "",
    reports=(),
    networks=("test_protocols:network",),
    num_samples=12,
    reference_split="all",
    num_reference=20,
    manifold=(8, 10),
    num_reconstructions=20,
    image={"mode": "rgb", "height": 32, "width": 32, "resize": "adm", "interpolation": "bicubic"},
)


def network() -> nn.Module:
    """Features of pooled pixels."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A tokenizer, twenty photos of 80 x 66 pixels, and twelve samples of 32 x 32."""
    folder = tmp_path_factory.mktemp("protocols")
    seeding.reseed_global(0)
    config = load_config(CONFIGS / "shapes" / "edvae.yaml", TokenizerRun)
    small = config.tokenizer.network.model_copy(update={"width": 8})
    tokenizer = build_tokenizer(config.tokenizer.model_copy(update={"network": small}))
    tokenizer.eval().save_pretrained(folder / "tokenizer")
    draw = np.random.default_rng(0)
    for name, count, size in [("photos", 20, (66, 80)), ("samples", 12, (32, 32))]:
        (folder / name).mkdir()
        for i in range(count):
            pixels = draw.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:06d}.png")
    return folder


@pytest.fixture(autouse=True)
def tiny(monkeypatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "tiny", TINY)


def measure(place: Path, *, samples: bool = True, features: str = NETWORK, **how):
    how = {"protocol": "tiny", "progress": False, **how}
    drawn = place / "samples" if samples else None
    data = str(place / "photos")
    return imagetok.evaluate(
        place / "tokenizer", data, samples=drawn, features=features, device="cpu", **how
    ).record


def test_the_identity_names_the_protocol_its_crop_and_its_counts(place):
    identity = measure(place)["identity"]
    assert identity["protocol"] == "tiny"
    assert (identity["count"], identity["data_count"]) == (12, 20)
    assert identity["precision_recall_counts"] == {"reference": 8, "samples": 10}
    assert (identity["image"]["resize"], identity["image"]["interpolation"]) == ("adm", "bicubic")
    free = measure(place, protocol=None)["identity"]
    assert "protocol" not in free and free["image"]["resize"] == "cover"
    assert free["precision_recall_counts"] == {"reference": 12, "samples": 12}, "equal counts"
    whole = measure(place, samples=False)["identity"]
    assert whole["protocol"] == "tiny" and "precision_recall_counts" not in whole


def test_the_crop_is_that_of_the_reference_images(place):
    """What is measured under a protocol are the images that a contract with its crop reads."""
    tokenizer = Tokenizer.from_pretrained(place / "tokenizer")
    image = tokenizer.image.model_copy(update={"resize": "adm", "interpolation": "bicubic"})
    cropped = open_images(*parse_spec(str(place / "photos")), image)
    direct = imagetok.evaluate(
        tokenizer, cropped, samples=place / "samples", features=NETWORK, progress=False
    )
    found, plain = measure(place), measure(place, protocol=None)
    assert (
        found["measures"]["frechet_test_protocols:network"]
        == direct.measures["frechet_test_protocols:network"]
    )
    assert (
        found["measures"]["frechet_test_protocols:network"]
        != plain["measures"]["frechet_test_protocols:network"]
    )


REFUSED = {
    "samples": ({"num_samples": 50_000}, {}, "samples: expected 50,000, found 12"),
    "images": ({"num_reference": 50_000}, {}, "images: expected 50,000, found 20"),
    "split": ({"reference_split": "train"}, {}, "split: expected train, found all"),
    "network": (
        {"networks": ("inception",)},
        {},
        "--features: expected inception, found test_protocols:network",
    ),
    "size": ({"image": {"height": 256}}, {}, "image.height: expected 256, found 32"),
    "count": ({}, {"reference_count": 5}, "fixes the reference images, but found"),
    "photos": ({"num_reconstructions": 5}, {"samples": False}, "images: expected 5, found 20"),
    "none": ({"num_reconstructions": None}, {"samples": False}, "measures samples; add --samples"),
    "name": ({}, {"protocol": "tinny"}, "found 'tinny'; did you mean 'tiny'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_protocol_fixes_is_refused_otherwise(case, place, monkeypatch):
    changes, how, told = REFUSED[case]
    monkeypatch.setitem(PROTOCOLS, "tiny", TINY._replace(**changes))
    with pytest.raises(ConfigError) as refused:
        measure(place, **how)
    assert told in str(refused.value)


def test_precision_and_recall_count_as_many_as_asked():
    def rows(n: int, seed: int) -> FeatureSet:
        draw = torch.Generator().manual_seed(seed)
        return FeatureSet(torch.randn(n, 4, generator=draw), None, torch.zeros(n))

    real, drawn = rows(50, 0), rows(30, 1)
    found = compare_sets(real, drawn, "x", ManifoldCounts(20, 30))
    assert compare_sets(real, drawn, "x", ManifoldCounts(50, 30)) == compare_sets(real, drawn, "x")
    assert found["frechet_x"] == compare_sets(real, drawn, "x")["frechet_x"], "of all images"
    part = real.vectors[drawn_indices(50, 20)]
    assert (found["precision_x"], found["recall_x"]) == precision_recall(drawn.vectors, part)


def test_samples_are_as_many_as_the_images_up_to_fifty_thousand():
    assert [sample_count(n) for n in (10, 50_000, 162_770)] == [10, 50_000, 50_000]


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "tiny"])
def test_the_page_lists_every_protocol_with_what_it_fixes(name):
    page = (CONFIGS.parent / "docs" / "reference" / "protocols.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    protocol = PROTOCOLS[name]
    counts = (protocol.num_samples, protocol.num_reference, protocol.num_reconstructions)
    for fixed in (*counts, *protocol.manifold):
        assert fixed is None or f"{fixed:,}" in row
    for measure in protocol.reports:
        assert f"`{measure}`" in row
