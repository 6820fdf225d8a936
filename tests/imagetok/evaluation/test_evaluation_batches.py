"""Every image is measured once, and how many go together changes no measure."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from imagetok import seeding
from imagetok.config import load_config
from imagetok.data import ShapesConfig, open_images
from imagetok.evaluation import batches, evaluate_reconstruction, feature_distances
from imagetok.evaluation.cifar_resnet import CIFARResNet
from imagetok.evaluation.feature_networks import open_features
from imagetok.tokenizers import Tokenizer, build_tokenizer
from imagetok.training.config import TokenizerRun

CONFIG = Path(__file__).parents[3] / "configs" / "shapes" / "edvae.yaml"
COUNT = 130


@pytest.fixture
def tokenizer() -> Tokenizer:
    seeding.reseed_global(0)
    config = load_config(CONFIG, TokenizerRun).tokenizer
    network = config.network.model_copy(update={"width": 8})
    return build_tokenizer(config.model_copy(update={"network": network})).eval()


@pytest.mark.parametrize("places", [None, [5, 3, 3, 129]])
def test_all_images_come_once_and_in_order(tokenizer, places, monkeypatch):
    monkeypatch.setattr(batches, "EVALUATION_BATCH", 3)
    dataset = open_images(ShapesConfig(count=COUNT), "train", tokenizer.image)
    found = list(batches.batches(tokenizer, dataset, places))
    expected = dataset.read(range(COUNT) if places is None else places)
    assert [batch.number for batch in found] == list(range(-(-len(expected.images) // 3)))
    images = torch.cat([batch.images for batch in found])
    assert torch.equal(images, expected.images / 255)
    assert torch.equal(torch.cat([batch.labels for batch in found]), expected.labels)
    draws = [torch.rand(1, generator=batch.draw()).item() for batch in found for _ in range(2)]
    assert len(set(draws)) == len(found)  # of one batch alike, of others not


def test_no_measure_depends_on_how_many_go_together(tokenizer, tmp_path, monkeypatch):
    save_file(CIFARResNet(1).state_dict(), tmp_path / "resnet.safetensors")
    network = open_features(f"cifar-resnet={tmp_path / 'resnet.safetensors'}")
    dataset = open_images(ShapesConfig(count=COUNT), "train", tokenizer.image)
    found = []
    for size in (128, 7):
        monkeypatch.setattr(batches, "EVALUATION_BATCH", size)
        monkeypatch.setattr(feature_distances, "FEATURE_BATCH", size)
        measures = evaluate_reconstruction(tokenizer, dataset)
        real = feature_distances.features_of(network, dataset)
        changed = feature_distances.features_of(
            network, dataset, feature_distances.reconstruct_bytes(tokenizer)
        )
        found.append(measures | feature_distances.compare_sets(real, changed, "resnet"))
    assert found[0]["num_images"] == COUNT and found[0]["frechet_resnet"] > 1e-3
    deviations = [measures.pop("entropy_std") for measures in found]
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert deviations[1] == pytest.approx(deviations[0], abs=1e-7)  # of values rounded to 5e-7
