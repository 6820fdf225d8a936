"""Label maps through the whole: a source, a tokenizer, code shards, palette PNGs, and back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imagetok import seeding
from imagetok.codes.decode import decode_dataset, decode_in_batches
from imagetok.codes.encode import encode_dataset, make_plan
from imagetok.codes.reader import open_codes
from imagetok.config import validate
from imagetok.data import (
    FolderConfig,
    ImageError,
    ShapesConfig,
    open_image,
    open_images,
    preprocess,
)
from imagetok.errors import ConfigError, InputError
from imagetok.evaluation import evaluate_reconstruction
from imagetok.images import ImageContract, from_stored
from imagetok.pictures import as_rgb, palette
from imagetok.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer

IMAGE = {"mode": "labels", "height": 16, "width": 16, "interpolation": "nearest", "num_classes": 11}
CONTRACT = ImageContract(**IMAGE)
TREE = {
    "image": IMAGE,
    "network": {
        "kind": "conv",
        "width": 8,
        "groups": 3,
        "blocks": 1,
        "residual_gain": 0.5,
        "init": "torch",
    },
    "quantizer": {"kind": "vmf-sqvae", "num_codes": 16, "code_dim": 4},
    "likelihood": {"kind": "vmf"},
}
SHAPES = ShapesConfig(count=70, test_count=5)


@pytest.fixture
def tokenizer() -> Tokenizer:
    seeding.reseed_global(0)
    return build_tokenizer(validate(TREE, TokenizerConfig, "test")).eval()


def maps(count: int = 3) -> torch.Tensor:
    return from_stored(open_images(SHAPES, "train", CONTRACT).read(range(count)).images, CONTRACT)


def test_shapes_give_their_class_maps() -> None:
    images = open_images(SHAPES, "train", CONTRACT).read(range(12)).images
    expected = open_images(SHAPES, "train", CONTRACT).class_maps(range(12))
    assert images.shape == (12, 1, 16, 16) and torch.equal(images[:, 0].long(), expected)
    assert torch.equal(torch.unique(expected), torch.arange(11))
    with pytest.raises(ConfigError, match=r"have 11 classes .* at least 11, found 10"):
        open_images(SHAPES, "train", CONTRACT.model_copy(update={"num_classes": 10}))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_label_maps_to_codes_and_back(tokenizer: Tokenizer, count: int) -> None:
    codes = tokenizer.encode(maps(count))
    assert [level.shape for level in codes] == [(count, 4, 4)]
    x_hat = tokenizer.decode(codes)
    assert x_hat.shape == (count, 16, 16) and x_hat.dtype == torch.int64
    assert ((x_hat >= 0) & (x_hat < 11)).all()
    assert torch.equal(tokenizer.reconstruct(maps(count)), x_hat)
    assert torch.equal(decode_in_batches(tokenizer, codes), x_hat)


def test_training_output_has_gradients_everywhere(tokenizer: Tokenizer) -> None:
    out = tokenizer(maps(), generator=torch.Generator().manual_seed(0))
    assert list(out.losses) == ["reconstruction", "continuous", "discrete"]
    assert out.x_hat.shape == (3, 16, 16)
    sum(out.losses.values()).backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_what_is_no_label_map_is_refused(tokenizer: Tokenizer) -> None:
    outside = maps()
    outside[1, 2, 3] = 11
    with pytest.raises(InputError, match="found 11 at image 1, row 2, column 3"):
        tokenizer.encode(outside)
    with pytest.raises(InputError, match=r"found shape \(3, 1, 16, 16\)"):
        tokenizer.encode(maps()[:, None])


@pytest.mark.parametrize(
    "change",
    [{"likelihood": {"kind": "mse"}}, {"image": {"mode": "grey", "height": 16, "width": 16}}],
)
def test_a_likelihood_of_something_else_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"likelihood: label maps .* need 'vmf'"):
        validate(TREE | change, TokenizerConfig, "here")


def test_a_saved_tokenizer_is_loaded_again(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "t")
    again = Tokenizer.from_pretrained(tmp_path / "t")
    assert again.image == CONTRACT and again.fingerprint == tokenizer.fingerprint
    assert torch.equal(again.encode(maps())[0], tokenizer.encode(maps())[0])
    assert "label maps of 11 classes, 16 x 16" in (tmp_path / "t" / "README.md").read_text()


def test_measures_are_accuracy_and_miou(tokenizer: Tokenizer) -> None:
    dataset = open_images(SHAPES, "test", CONTRACT)
    measures = evaluate_reconstruction(tokenizer, dataset)
    truth = dataset.class_maps(range(5))
    share = (tokenizer.reconstruct(truth) == truth).double().mean().item()
    assert measures["pixel_accuracy"] == pytest.approx(share)
    assert 0 <= measures["miou"] <= 1 and measures["num_images"] == 5
    assert "mse" not in measures and "psnr_db" not in measures


def test_shards_decode_to_palette_pictures_that_read_as_label_maps(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    dataset = open_images(SHAPES, "train", CONTRACT)
    tokenizer.save_pretrained(tmp_path / "t")
    plan = make_plan(tokenizer, dataset, source="shapes:train,count=70", name="t")
    encode_dataset(tokenizer, dataset, tmp_path / "codes", plan, threads=1)
    codes = open_codes(tmp_path / "codes")
    assert decode_dataset(tokenizer, codes, tmp_path / "png") == (70, 70)
    expected = decode_in_batches(tokenizer, tokenizer.encode(maps(70)))
    with Image.open(tmp_path / "png" / "000000.png") as picture:
        assert picture.mode == "P"
        colours = np.asarray(picture.convert("RGB"))
    assert np.array_equal(colours, as_rgb(expected[:1])[0].movedim(0, -1).numpy())
    folder = open_images(FolderConfig(root=str(tmp_path / "png")), "all", CONTRACT)
    assert torch.equal(from_stored(folder.read(range(70)).images, CONTRACT), expected)


def test_a_file_with_another_class_or_with_colours_is_refused(tmp_path: Path) -> None:
    pixels = np.zeros((20, 16), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    pixels[4, 7] = 11
    Image.fromarray(pixels).save(tmp_path / "b.png")
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(tmp_path / "c.png")
    folder = open_images(FolderConfig(root=str(tmp_path)), "all", CONTRACT)
    assert not folder.read([0]).images.any()
    with pytest.raises(ImageError, match=r"b.png: .* \[0, 11\), found 11 at row 4, column 7"):
        folder.read([1])
    with pytest.raises(ImageError, match=r"c.png: expected a label map of mode L .* mode RGB"):
        folder.read([2])


def test_label_maps_are_resized_to_the_nearest_pixel(tmp_path: Path) -> None:
    pixels = np.kron(np.array([[0, 10], [5, 3]], dtype=np.uint8), np.ones((24, 24), dtype=np.uint8))
    small = preprocess(pixels, CONTRACT)[0].numpy()
    assert np.array_equal(small, pixels[::3, ::3])  # no class that was not there
    Image.fromarray(pixels).save(tmp_path / "map.png")
    assert np.array_equal(open_image(tmp_path / "map.png", as_labels=True), pixels)


def test_colours_of_classes_differ() -> None:
    assert len({tuple(colour) for colour in palette()[:64]}) == 64
