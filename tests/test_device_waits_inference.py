"""Encoding, decoding and evaluation wait for a GPU only for copied results, one batch behind."""

from functools import partial
from typing import Any, cast

import pytest
import torch
from device_waits import (
    GPU,
    Allowed,
    DeviceWaits,
    WouldWait,
    device_generator,
    fake_tensors,
    move,
)
from representative import slow_but
from test_device_waits import MECHANISMS as ALL_MECHANISMS
from test_device_waits import MODELS, run_of
from torch import nn

from imagetok import host_copy, seeding
from imagetok.batch_size import FittingBatches
from imagetok.codes import encode
from imagetok.codes.decode import decode_in_batches
from imagetok.codes.schema import CodePlan, TokenizerId
from imagetok.data.base import ArrayImages
from imagetok.evaluation import feature_distances, feature_networks, reconstruction
from imagetok.evaluation.batches import EVALUATION_BATCH
from imagetok.evaluation.feature_distances import features_of, reconstruct_bytes
from imagetok.evaluation.feature_networks import FeatureNetwork, Features
from imagetok.evaluation.pace import Pace
from imagetok.tokenizers import Tokenizer, build_autoencoder
from imagetok.tokenizers.base import Autoencoder
from imagetok.tokenizers.deferred_checks import stored_on
from imagetok.training.config import TokenizerRun

COPIED = Allowed("_to_copy", "host_copy.py:__init__", "copied while the device goes on")
IMAGES = 3
MECHANISMS = [
    *("digits/vqvae-ema", "digits/edvae", "digits/sqvae", "shapes/vmf-sqvae", "shapes/vqvae2"),
    *("digits/vae", "digits/fsq", "digits/residual-vq"),
]
TOKENIZERS = [name for name in ALL_MECHANISMS if MODELS[name]["kind"] == "tokenizer"]
each_model = pytest.mark.parametrize("name", slow_but(MECHANISMS, TOKENIZERS))


class Done:
    """An event that has occurred."""

    def synchronize(self) -> None:
        return


@pytest.fixture(autouse=True)
def fake_device(monkeypatch) -> None:
    monkeypatch.setattr(host_copy, "_recorded", lambda device: Done())
    usual = seeding.generator

    def generator(*parts: Any, device: Any = "cpu") -> torch.Generator:
        is_here = torch.device(device).type == GPU.type
        return device_generator() if is_here else usual(*parts)

    monkeypatch.setattr(seeding, "generator", generator)


def model_of(name: str, count: int = IMAGES) -> tuple[Autoencoder, ArrayImages]:
    """A model of the meta device, and images for it on the CPU."""
    run = run_of(MODELS[name])
    assert isinstance(run, TokenizerRun)
    with torch.device("meta"):
        model = build_autoencoder(run.tokenizer)
    image = model.image
    pixels = torch.zeros(count, image.channels, image.height, image.width, dtype=torch.uint8)
    images = ArrayImages(pixels, name="zeros", split="test", contract=image)
    return model.eval(), images


def plan_of(model: Tokenizer) -> CodePlan:
    return CodePlan(
        tokenizer=TokenizerId(fingerprint="0" * 64, name=""),
        num_codes=model.num_codes,
        grids=model.grids,
        image=model.image,
        source="zeros",
        source_identity="",
        num_inputs=IMAGES - 1,
        labelled=False,
        class_names=(),
        micro_batch=IMAGES,
    )


@each_model
def test_encoding_waits_for_nothing(name):
    model, images = model_of(name)
    if not isinstance(model, Tokenizer):
        pytest.skip("it has no codes")
    plan, batches = plan_of(model), FittingBatches("encoding", IMAGES)
    read = partial(encode._read_micro, images, IMAGES, range(IMAGES - 1))
    with fake_tensors():
        move(model)
        with DeviceWaits(allowed=[COPIED]) as waits:
            started = encode._encode_micro(model, plan, batches, read)
    assert waits.used == {COPIED}
    *codes, finite = started.results.tensors()
    assert (
        [len(level) for level in codes] == [IMAGES] * len(plan.grids) == [len(finite)] * len(codes)
    )


@each_model
def test_decoding_waits_for_nothing(name):
    model, _ = model_of(name)
    if not isinstance(model, Tokenizer):
        pytest.skip("it has no codes")
    codes = tuple(torch.zeros(65, *grid, dtype=torch.int64) for grid in model.grids)
    with fake_tensors():
        move(model)
        with DeviceWaits(allowed=[COPIED]) as waits:
            images = decode_in_batches(model, codes)
    assert waits.used == {COPIED} and len(images) == 65


@each_model
def test_measuring_reconstructions_waits_for_nothing(name, monkeypatch):
    model, images = model_of(name, EVALUATION_BATCH + 1)
    finite: list[int] = []  # what is copied from a fake device is zero, as of images that are not
    monkeypatch.setattr(reconstruction, "quality", lambda *_: {"mse": 0.0})
    monkeypatch.setattr(reconstruction, "refuse_unless_finite", lambda f: finite.append(len(f)))
    with fake_tensors():
        move(model)
        with DeviceWaits(allowed=[COPIED]) as waits:
            reconstruction.evaluate_reconstruction(model, images)
    assert waits.used == {COPIED} and finite == [EVALUATION_BATCH, 1]


@pytest.mark.parametrize("name", ["digits/vqvae-ema", "digits/vae"])
def test_features_wait_for_nothing(name, monkeypatch):
    model, images = model_of(name, 7)
    finite: list[int] = []
    monkeypatch.setattr(
        feature_distances, "refuse_not_finite", lambda network, f: finite.append(len(f))
    )
    body: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).to("meta")
    with monkeypatch.context() as patched:
        patched.setattr(feature_networks, "hash_of", lambda model: "0" * 64)
        network = FeatureNetwork("tiny", body, lambda x: Features(body(x / 255), None), "none")
    pace = Pace(batch_size=4)
    with fake_tensors():
        move(model)
        move(network)
        with DeviceWaits(allowed=[COPIED]) as waits:
            for change in (None, reconstruct_bytes(model)):
                found = features_of(network, images, change, pace)
    assert waits.used == {COPIED} and finite == [4, 3, 4, 3]
    assert len(found.vectors) == len(images)


def test_a_value_that_is_read_at_once_is_found():
    model, images = model_of("digits/vqvae-ema")
    with fake_tensors():
        move(model)
        with DeviceWaits(allowed=[COPIED]), pytest.raises(WouldWait, match=r"images\.py"):
            cast(Tokenizer, model).encode(stored_on(GPU, images.images, model.image))
