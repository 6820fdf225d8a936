from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from imagetok.config import validate
from imagetok.errors import ConfigError, InputError
from imagetok.precision import tf32
from imagetok.tokenizers import Reconstruction, Tokenizer, TokenizerConfig

Build = Callable[..., Tokenizer]
every_kind = pytest.mark.parametrize("kind", ["edvae", "dvae", "vqvae-ema"])


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 8, 12, generator=torch.Generator().manual_seed(1))


@every_kind
@pytest.mark.parametrize("count", [0, 1, 3])
def test_images_to_codes_and_back(build: Build, kind: str, count: int) -> None:
    tokenizer = build(kind)
    assert tokenizer.num_codes == (16,) and tokenizer.grids == ((4, 6),)
    codes = tokenizer.encode(images(count))
    assert [(level.shape, level.dtype) for level in codes] == [((count, 4, 6), torch.int64)]
    assert all(((level >= 0) & (level < 16)).all() for level in codes)
    x_hat = tokenizer.decode(codes)
    assert x_hat.shape == (count, 3, 8, 12) and x_hat.dtype == torch.float32
    assert not x_hat.requires_grad and ((x_hat >= 0) & (x_hat <= 1)).all()
    assert torch.equal(x_hat, tokenizer.reconstruct(images(count)).clamp(0, 1))


@every_kind
def test_encoding_is_float32_in_fact_unless_told_otherwise(build: Build, kind: str) -> None:
    """Also where the caller allows TF32 or bfloat16, which change codes."""
    tokenizer, seen = build(kind), []

    def note(module: Any, given: Any, out: torch.Tensor) -> None:
        seen.append((out.dtype, torch.backends.cuda.matmul.fp32_precision))

    layers = (m for m in tokenizer.encoder.modules() if isinstance(m, torch.nn.Conv2d))
    next(layers).register_forward_hook(note)
    expected = tokenizer.encode(images())
    with tf32(), torch.autocast("cpu", torch.bfloat16):
        found = tokenizer.encode(images())
        tokenizer.encode_with_certainty(images())
        tokenizer.reconstruct(images())
        tokenizer.encode_between(images(), images(), torch.zeros(3))
    assert seen == 6 * [(torch.float32, "ieee")]
    assert torch.equal(found[0], expected[0])
    tokenizer.encode(images(), precision="bfloat16")
    assert seen[-1][0] == torch.bfloat16


@every_kind
def test_decoding_clamps_and_reconstructing_does_not(build: Build, kind: str) -> None:
    tokenizer = build(kind)
    with torch.no_grad():
        list(tokenizer.decoder.parameters())[-1].fill_(9.0)
    assert tokenizer.reconstruct(images()).max() > 5
    assert tokenizer.decode(tokenizer.encode(images())).max() == 1


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.uint16, torch.int16, torch.int32, torch.int64]
)
@pytest.mark.usefixtures("untyped")
def test_codes_of_any_integer_type_decode_alike(build: Build, dtype: torch.dtype) -> None:
    tokenizer = build()
    (codes,) = tokenizer.encode(images())
    assert torch.equal(tokenizer.decode((codes.to(dtype),)), tokenizer.decode((codes,)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_pixels_of_any_precision_give_the_codes_of_the_same_pixels(
    build: Build, dtype: torch.dtype
) -> None:
    tokenizer = build()
    pixels = images().to(dtype)
    assert torch.equal(tokenizer.encode(pixels)[0], tokenizer.encode(pixels.float())[0])
    assert torch.equal(tokenizer.reconstruct(pixels), tokenizer.reconstruct(pixels.float()))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (images().numpy(), r"found a numpy array; pass torch\.from_numpy"),
        (images().tolist(), "expected images as a torch tensor, found list"),
        (None, "expected images as a torch tensor, found NoneType"),
        (Image.new("RGB", (12, 8)), "found Image; for files and PIL images"),
        ((255 * images()).byte(), r"torch\.uint8; .* images\.float\(\) / 255"),
        (images().to("meta"), r'device cpu, found meta; pass images\.to\("cpu"\)'),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_what_no_method_takes_is_refused_by_each(build: Build, given: Any, says: str) -> None:
    tokenizer = build()
    for method in (tokenizer.encode, tokenizer.reconstruct, tokenizer.encode_with_certainty):
        with pytest.raises(InputError, match=says):
            method(given)
    with pytest.raises(InputError, match=says):
        tokenizer.encode_between(images(), given, torch.zeros(3))


@pytest.mark.parametrize("share", [0.5, torch.zeros(2), None])
@pytest.mark.usefixtures("untyped")
def test_a_share_for_each_pair_is_expected(build: Build, share: Any) -> None:
    with pytest.raises(InputError, match="a share for each"):
        build().encode_between(images(), images(), share)


@pytest.mark.parametrize(
    ("codes", "says"),
    [
        (torch.zeros(1, 4, 6).long(), r"found Tensor; pass \(codes,\)"),
        ((np.zeros((1, 4, 6), np.int64),), r"level 0: .* found ndarray; pass torch\.as_tensor"),
        ([[[0]]], "level 0: expected codes as a torch tensor, found list"),
        (None, "expected a tuple of 1 code map, found NoneType"),
        ((torch.zeros(1, 4, 6).bool(),), r"expected integer codes, found torch\.bool"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_what_is_no_codes_is_refused(build: Build, codes: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        build().decode(codes)


@every_kind
def test_training_output(build: Build, kind: str) -> None:
    tokenizer = build(kind)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    first, again = (tokenizer(images(), temperature=0.8, generator=g) for g in generators)
    assert isinstance(first, Reconstruction) and torch.equal(first.x_hat, again.x_hat)
    assert first.x_hat.shape == (3, 3, 8, 12)
    quantizer_loss = "commitment" if kind == "vqvae-ema" else "kl"
    assert list(first.losses) == ["reconstruction", quantizer_loss]
    assert_close(first.losses["reconstruction"], (first.x_hat - images()).square().mean())
    sum(first.losses.values()).backward()
    parameters = list(tokenizer.parameters())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in parameters)
    ends = [tokenizer.encoder.layers[0].weight, tokenizer.decoder.layers[-1].weight]
    assert all(p.grad is not None and p.grad.any() for p in ends)


@every_kind
def test_only_update_changes_a_tokenizer(build: Build, kind: str) -> None:
    tokenizer = build(kind)
    before = {k: v.clone() for k, v in tokenizer.state_dict().items()}

    def changed() -> set[str]:
        after = tokenizer.state_dict()
        return {k for k in before if not torch.equal(before[k], after[k])}

    out = tokenizer(images())
    tokenizer.encode(images())
    assert changed() == set()
    tokenizer.update(out.stats, torch.Generator())
    moving = {"quantizer.codebook", "quantizer.cluster_size"}
    assert changed() == (moving if kind == "vqvae-ema" else set())


@pytest.mark.parametrize("kind", ["edvae", "dvae"])
def test_a_sampling_rule_draws_from_the_generator(build: Build, kind: str) -> None:
    tokenizer = build(kind, test_rule="sample")
    codes = [
        tokenizer.encode(images(), generator=torch.Generator().manual_seed(seed))[0]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(codes[0], codes[1]) and not torch.equal(codes[0], codes[2])


def test_images_that_do_not_fit_are_refused(build: Build) -> None:
    tokenizer = build()
    with pytest.raises(InputError, match="found 12 x 8 pixels"):
        tokenizer.encode(images().mT)
    with pytest.raises(InputError, match=r"expected pixels in \[0, 1\], found \[0"):
        tokenizer.encode(images() * 255)


@pytest.mark.parametrize(
    ("codes", "says"),
    [
        ((), "expected a tuple of 1 code map, found 0 levels"),
        ((torch.zeros(1, 4, 6).long(),) * 2, "found 2 levels"),
        (torch.zeros(1, 4, 6).long(), "found Tensor"),
        ((torch.zeros(1, 6, 4).long(),), r"level 0: .* \(B, 4, 6\), found \(1, 6, 4\)"),
        ((torch.zeros(4, 6).long(),), r"level 0: .* found \(4, 6\)"),
        ((torch.zeros(1, 4, 6),), r"level 0: expected integer codes, found torch\.float32"),
        ((torch.zeros(1, 4, 6).bool(),), r"level 0: expected integer codes, found torch\.bool"),
        ((torch.full((1, 4, 6), 16),), r"expected codes in \[0, 16\), found \[16, 16\]"),
        ((torch.full((1, 4, 6), -1),), r"expected codes in \[0, 16\), found \[-1, -1\]"),
        (
            (torch.full((1, 4, 6), 2**64 - 1, dtype=torch.uint64),),
            r"expected codes in \[0, 16\)",
        ),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_codes_that_do_not_fit_are_refused(build: Build, codes: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        build().decode(codes)


@pytest.mark.parametrize(("height", "width"), [(7, 12), (8, 13)])
def test_sizes_that_the_network_cannot_halve_are_refused(
    build: Build, height: int, width: int
) -> None:
    tree = build().config.model_dump()
    tree["image"] |= {"height": height, "width": width}
    with pytest.raises(ConfigError, match=rf"multiples of 2, .* \(found {height} x {width}\)"):
        validate(tree, TokenizerConfig, "here")
