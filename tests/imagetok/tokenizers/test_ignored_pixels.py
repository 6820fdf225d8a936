"""Pixels without a class count nowhere: not in the input, the loss, its gradient, or measures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

import imagetok
from imagetok import seeding
from imagetok.config import validate
from imagetok.data import ShapesConfig, open_images, parse_spec, preprocess
from imagetok.data.label_maps import check_classes
from imagetok.errors import ConfigError, InputError
from imagetok.evaluation.reconstruction_error import quality, quality_sums
from imagetok.images import ImageContract, check_images, from_stored
from imagetok.named_configs import find_config
from imagetok.networks import PixelRange
from imagetok.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer
from imagetok.tokenizers.likelihood import VMFConfig, build_likelihood

IGNORE = 255
IMAGE = {"mode": "labels", "height": 16, "width": 16, "interpolation": "nearest", "num_classes": 11}
PLAIN = ImageContract(**IMAGE)
CONTRACT = ImageContract(**IMAGE, ignore=IGNORE)


def shapes(count: int = 4) -> Tensor:
    stored = open_images(ShapesConfig(count=count), "train", PLAIN).read(range(count)).images
    return from_stored(stored, PLAIN)


def mask(count: int = 4) -> Tensor:
    """Pixels without a class: a third of them, and a whole row."""
    drawn = torch.rand(count, 16, 16, generator=torch.Generator().manual_seed(3)) < 0.3
    drawn[:, 5] = True
    return drawn


def build(image: dict = IMAGE | {"ignore": IGNORE}) -> Tokenizer:
    tree = {
        "image": image,
        "network": {"kind": "conv", "width": 8, "groups": 3, "blocks": 1, "init": "torch"}
        | {"residual_gain": 0.5},
        "quantizer": {"kind": "vmf-sqvae", "num_codes": 16, "code_dim": 4},
        "likelihood": {"kind": "vmf"},
    }
    seeding.reseed_global(0)
    return build_tokenizer(validate(tree, TokenizerConfig, "test"))


def likelihood(contract: ImageContract = CONTRACT):
    return build_likelihood(VMFConfig(), contract, PixelRange(0.0, 1.0))


def test_the_gradient_at_ignored_pixels_is_zero_and_their_values_do_not_count() -> None:
    images, ignored = shapes(), mask()
    labels, wide = images.masked_fill(ignored, IGNORE), ignored[:, None]
    vmf = likelihood()
    out = torch.randn(4, vmf.channels, 16, 16, generator=torch.Generator().manual_seed(0))
    losses, gradients = [], []
    for garbage in (0.0, 1e4, float("nan"), float("inf")):
        given = out.masked_fill(wide, garbage).requires_grad_()
        loss = vmf.loss(given, labels)
        loss.backward()
        assert given.grad is not None
        assert (given.grad[wide.expand_as(out)] == 0).all()
        losses.append(loss.detach())
        gradients.append(given.grad)
    assert all(torch.equal(loss, losses[0]) for loss in losses)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
    assert (gradients[0][~wide.expand_as(out)] != 0).any()


def test_the_loss_is_the_sum_over_the_other_pixels() -> None:
    images, ignored = shapes(), mask()
    vmf, plain = likelihood(), likelihood(PLAIN)
    out = torch.randn(4, vmf.channels, 16, 16, generator=torch.Generator().manual_seed(0))
    assert_close(vmf.loss(out, images), plain.loss(out, images))
    alone = []
    for i, y, x in (~ignored).nonzero().tolist():
        at = slice(i, i + 1), slice(y, y + 1), slice(x, x + 1)
        alone.append(plain.loss(out[at[0], :, at[1], at[2]], images[at]))
    labels = images.masked_fill(ignored, IGNORE)
    assert_close(
        vmf.loss(out, labels), torch.stack(alone).sum() / len(images), rtol=1e-5, atol=1e-3
    )
    nothing = torch.full_like(images, IGNORE)
    assert vmf.loss(out, nothing).item() == 0


def test_the_input_of_an_ignored_pixel_is_zero_and_of_others_one_hot() -> None:
    images, ignored = shapes(), mask()
    given = likelihood().to_network(images.masked_fill(ignored, IGNORE))
    expected = likelihood(PLAIN).to_network(images) * ~ignored[:, None]
    assert torch.equal(given, expected)


def test_training_does_not_see_what_lies_under_the_mask() -> None:
    """Label maps that differ under the mask alone give the same weights, step for step."""
    images, ignored = shapes(), mask()
    garbage = torch.randint(0, 11, images.shape, generator=torch.Generator().manual_seed(9))
    assert not torch.equal(images[ignored], garbage[ignored])
    ends = []
    for under in (images, garbage):
        labels = under.where(ignored, images).masked_fill(ignored, IGNORE)
        tokenizer = build()
        optimizer = torch.optim.Adam(tokenizer.parameters(), 1e-2)
        for step in range(3):
            out = tokenizer(labels, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            sum(out.losses.values()).backward()
            optimizer.step()
        ends.append(tokenizer.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert any(not torch.equal(ends[0][n], value) for n, value in build().state_dict().items())


def test_measures_count_the_pixels_with_a_class() -> None:
    images, ignored = shapes(), mask()
    x_hat = images.clone()
    x_hat[ignored] = 7  # what is decoded where there is no class
    x_hat[:, 0, 0] = (images[:, 0, 0] + 1) % 11
    ignored[:, 0, 0] = False
    labels = images.masked_fill(ignored, IGNORE)
    found = quality(quality_sums(x_hat, labels, CONTRACT), 4, CONTRACT)
    counted = int((~ignored).sum())
    assert_close(found["pixel_accuracy"], (counted - 4) / counted)
    same = quality(quality_sums(x_hat, x_hat, PLAIN), 4, PLAIN)
    assert quality(quality_sums(x_hat, x_hat, CONTRACT), 4, CONTRACT) == same


def test_decoded_maps_hold_classes_and_originals_keep_the_value(tmp_path) -> None:
    labels = shapes(1).masked_fill(mask(1), IGNORE)[0]
    Image.fromarray(labels.to(torch.uint8).numpy()).save(tmp_path / "map.png")
    found = imagetok.reconstruct(build(), tmp_path / "map.png")
    assert torch.equal(found.originals[0], labels)
    assert int(found.reconstructions.max()) < 11
    assert 0 <= found.measures[0]["pixel_accuracy"] <= 1


def test_files_and_tensors_may_hold_the_value_and_no_other() -> None:
    labels = shapes(2).masked_fill(mask(2), IGNORE)
    check_images(labels, CONTRACT)
    pixels = labels[0].to(torch.uint8).numpy()
    assert torch.equal(preprocess(pixels, CONTRACT)[0].long(), labels[0])
    with pytest.raises(InputError, match=r"image\.ignore set to their value"):
        check_images(labels, PLAIN)
    with pytest.raises(InputError, match=r"set tokenizer\.image\.ignore=255 to leave them out"):
        preprocess(pixels, PLAIN)
    pixels[3, 3] = 254
    with pytest.raises(InputError, match=r"found 254 at row 3, column 3"):
        preprocess(pixels, CONTRACT)


def test_the_key_is_left_out_where_absent_and_refused_where_it_is_a_class() -> None:
    assert "ignore" not in PLAIN.model_dump() and CONTRACT.model_dump()["ignore"] == IGNORE
    assert build(IMAGE).fingerprint != build().fingerprint
    for tree in (IMAGE | {"ignore": 10}, {"height": 8, "width": 8, "ignore": 255}):
        with pytest.raises(ConfigError, match="ignore: expected a value of label maps"):
            validate(tree, ImageContract, "test")


def test_codes_of_maps_with_ignored_pixels_are_stored_and_decoded(tmp_path) -> None:
    labels = shapes(3).masked_fill(mask(3), IGNORE)
    tokenizer = build()
    done = imagetok.encode(
        tokenizer, labels.to(torch.uint8).numpy(), tmp_path / "codes", progress=False
    )
    assert done.written == 3 and done.dataset.plan.image.ignore == IGNORE
    stored = done.dataset.__getitems__([0, 1, 2]).codes
    assert all(np.array_equal(a, b) for a, b in zip(stored, tokenizer.encode(labels), strict=True))


@pytest.fixture
def blank(tmp_path) -> Path:
    """A folder of six label maps in which no pixel has a class; beside it, six in which some do."""
    for folder, values in (("blank", [IGNORE]), ("mixed", [0, 1, IGNORE])):
        (tmp_path / folder).mkdir()
        for i in range(6):
            pixels = np.resize(np.array(values, dtype=np.uint8), (16, 16))
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    return tmp_path / "blank"


def test_maps_without_any_class_are_refused_in_words(blank, tmp_path) -> None:
    expected = r"classes 0 to 10, found only 255, .* in all 6 label maps"
    with pytest.raises(InputError, match=expected):
        imagetok.evaluate(build(), blank, progress=False)
    found = imagetok.reconstruct(build(), blank / "0.png")
    assert found.measures == ({},)
    assert "nan" not in str(found)
    check_classes(open_images(*parse_spec(str(tmp_path / "mixed")), CONTRACT))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_run_whose_maps_of_a_split_have_no_class_does_not_start(split, blank, tmp_path) -> None:
    root = tmp_path / "both"
    root.mkdir()
    for name in ("train", "val"):
        (root / name).symlink_to(blank if name == split else tmp_path / "mixed")
    run = find_config("shapes/vmf-sqvae").tree | {"data": {"source": "folder", "root": str(root)}}
    run["tokenizer"] |= {"image": IMAGE | {"ignore": IGNORE}}
    with pytest.raises(InputError, match="found only 255"):
        imagetok.train(run, out=tmp_path / "run", device="cpu", progress=False)
    assert not (tmp_path / "run").exists()
