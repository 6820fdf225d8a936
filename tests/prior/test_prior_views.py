"""Training on codes of several views: one view of each image an epoch, or all of them."""

import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import imagetok
import prior
from imagetok import seeding
from imagetok.codes.encode import encode_dataset, make_plan
from imagetok.codes.reader import CodeDataset, open_codes
from imagetok.config import dump_yaml, validate
from imagetok.data import ArrayImages, ImageBatch, ImageDataset, ImageError
from imagetok.data.views import ImageViews
from imagetok.errors import ShardError
from imagetok.tokenizers import Tokenizer
from imagetok.training.batch_order import MicroBatches, batch_loader
from prior.code_views import OneViewAnEpoch
from prior.config import PriorRun
from prior.training import CodeSubset, open_data, train_prior

COUNT, VIEWS = 20, 10


@pytest.fixture(scope="module")
def codes(tokenizer_folder, tmp_path_factory) -> CodeDataset:
    draw = seeding.generator(0)
    pixels = torch.randint(0, 256, (COUNT, 9, 9), generator=draw, dtype=torch.uint8)
    out = tmp_path_factory.mktemp("views") / "codes"
    done = imagetok.encode(
        str(tokenizer_folder), pixels, out, views=VIEWS, crop_range=1.5, progress=False
    )
    return done.dataset


def make_run(codes: CodeDataset, tokenizer: Path, views: str = "one", **changes) -> PriorRun:
    tree = {
        "kind": "prior",
        "seed": 4,
        "data": {"source": str(codes.folder), "held_out": 0.2, "views": views},
        "tokenizer": str(tokenizer),
        "model": {"kind": "gpt", "layers": 1, "heads": 2, "width": 16, "dropout": 0.1},
        "train": {
            "steps": 6, "batch_size": 10, "learning_rate": {"kind": "constant", "value": 1e-3},
            "evaluate_every": 3, "checkpoint_every": 3, "trackers": [], **changes,
        },
    }  # fmt: skip
    return validate(tree, PriorRun, "test")


def keys_of(data: CodeSubset) -> list[int]:
    return data.__getitems__(list(range(len(data)))).keys.tolist()


def test_one_view_is_drawn_by_seed_epoch_and_image(codes):
    chosen = [7, 3, 11]
    data = OneViewAnEpoch(codes, chosen, seed=4)
    batch = data.read_at([2, 0, 2, 1], [0, 0, 5, 2])
    expected = []
    for image, epoch in ((11, 0), (7, 0), (11, 5), (3, 2)):
        key = seeding.derive_seed(4, "view")
        philox = np.random.Philox(key=key, counter=[0, image, epoch, 0])
        expected.append(VIEWS * image + math.floor(VIEWS * np.random.Generator(philox).random()))
    assert batch.keys.tolist() == expected
    assert torch.equal(batch.codes[0], codes.__getitems__(expected).codes[0])
    seen = data.read_at([0] * 200, list(range(200))).keys - 7 * VIEWS
    assert set(seen.tolist()) == set(range(VIEWS))


def test_an_epoch_has_each_image_once_in_one_view(codes, tokenizer_folder):
    training, held_out = open_data(make_run(codes, tokenizer_folder), codes.fingerprint)
    assert isinstance(training, OneViewAnEpoch)
    assert (len(training), len(held_out)) == (16, 4)
    order = MicroBatches(16, 8, seed=0)
    for workers in (0, 2):
        loader = batch_loader(training, order, workers, pin_memory=False)
        keys = torch.cat([batch.keys for batch in islice(loader, 4)]).tolist()
        epochs = [sorted(key // VIEWS for key in keys[i : i + 16]) for i in (0, 16)]
        assert epochs[0] == epochs[1] == sorted(training.images)


@pytest.mark.parametrize("views", ["one", "all"])
def test_held_out_images_are_in_the_middle_and_never_trained_on(codes, tokenizer_folder, views):
    run = make_run(codes, tokenizer_folder, views)
    training, held_out = open_data(run, codes.fingerprint)
    held = keys_of(held_out)
    assert all(key % VIEWS == 0 for key in held)
    if isinstance(training, CodeSubset):
        assert views == "all"
        trained = keys_of(training)
        assert len(trained) == 16 * VIEWS == len(set(trained))
    else:
        trained = [image * VIEWS for image in training.images]
    images = {key // VIEWS for key in trained}, {key // VIEWS for key in held}
    assert not images[0] & images[1]
    assert images[0] | images[1] == set(range(COUNT))
    kept = run.data.model_copy(update={"test": str(codes.folder)})
    training, held_out = open_data(run.model_copy(update={"data": kept}), codes.fingerprint)
    assert keys_of(held_out) == [VIEWS * i for i in range(COUNT)]
    assert len(training) == (COUNT if views == "one" else VIEWS * COUNT)


@pytest.mark.parametrize("views", ["one", "all"])
def test_a_resumed_run_is_bit_identical(codes, tokenizer_folder, tmp_path, views):
    train_prior(make_run(codes, tokenizer_folder, views), tmp_path / "whole", device="cpu")
    for name, more in (("here", {}), ("workers", {"workers": 2})):
        first = make_run(codes, tokenizer_folder, views, **more, steps=3)
        train_prior(first, tmp_path / name, device="cpu")
        rest = make_run(codes, tokenizer_folder, views, **more)
        train_prior(rest, tmp_path / name, resume=True, device="cpu")
        a, b = (load_file(tmp_path / n / "prior/model.safetensors") for n in ("whole", name))
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_finished_prior_is_measured_on_the_middle(codes, tokenizer_folder, tmp_path):
    train_prior(make_run(codes, tokenizer_folder, steps=1), tmp_path / "run", device="cpu")
    found = prior.evaluate(tmp_path / "run" / "prior", codes, device="cpu", progress=False)
    assert found.measures["num_images"] == COUNT
    assert {"view": 0, "views": VIEWS}.items() <= found.record["identity"].items()


def test_the_default_is_left_out_of_the_config(codes, tokenizer_folder):
    assert "views:" not in dump_yaml(make_run(codes, tokenizer_folder))
    assert "views: all" in dump_yaml(make_run(codes, tokenizer_folder, "all"))


class OneViewMissing(ImageDataset):
    """Views of which one alone cannot be read, as no program of imagetok writes them."""

    def __init__(self, views: ImageViews, missing: int):
        self.views, self.missing = views, missing
        self.name, self.split = views.name, views.split
        self.contract, self.class_names = views.contract, views.class_names

    def __len__(self) -> int:
        return len(self.views)

    def identity(self) -> str:
        return self.views.identity()

    def read(self, indices: Sequence[int]) -> ImageBatch:
        if self.missing in indices:
            raise ImageError("damaged", "an image", "truncated")
        return self.views.read(indices)


def test_a_dataset_without_all_views_is_refused(tokenizer_folder, tmp_path):
    tokenizer = Tokenizer.from_pretrained(tokenizer_folder)
    height, width = tokenizer.image.height, tokenizer.image.width
    images = ArrayImages(
        torch.zeros(4, 1, height, width, dtype=torch.uint8),
        name="zeros", split="all", contract=tokenizer.image,
    )  # fmt: skip
    dataset = OneViewMissing(ImageViews(images, 2, tokenizer.image), 3)
    plan = make_plan(tokenizer, dataset, source="zeros", name="tiny", views=2)
    encode_dataset(tokenizer, dataset, tmp_path / "codes", plan, max_skips=1)
    data = OneViewAnEpoch(open_codes(tmp_path / "codes"), range(3), seed=0)
    with pytest.raises(ShardError, match=r"expected all 2 views of each image.*encode the images"):
        data.read_at([0, 1, 2] * 8, [e for e in range(8) for _ in range(3)])
