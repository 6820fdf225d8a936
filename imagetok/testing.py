"""Functions that test a custom quantizer, network or data source against its interface.

Each raises AssertionError that names the broken rule. A custom part that already fails the checks
made when it is built or opened raises ConfigError instead. imagetok's own tests use these functions
for the built-in kinds.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from imagetok import seeding
from imagetok.config import Section
from imagetok.data import DataConfig, ImageBatch, ImageDataset, open_images
from imagetok.data.checked_images import CheckedImages
from imagetok.images import ImageContract
from imagetok.networks import FlatNetworkConfig, NetworkSpec, build_network
from imagetok.quantizers import (
    Codes,
    Quantized,
    Quantizer,
    QuantizerConfig,
    build_quantizer,
    is_concatenated,
)
from imagetok.suggestions import counted

SHAPE = (2, 3, 4)
"""Images, height and width of the encoder outputs that a quantizer is checked on."""


def check_quantizer(config: QuantizerConfig) -> None:
    """Check on a CPU that a quantizer follows the interface `imagetok.quantizers.Quantizer`.

    >>> def test_my_quantizer():
    ...     imagetok.testing.check_quantizer(SoftVQConfig(num_codes=16, code_dim=4))

    config: a section of a built-in or registered kind. Checked are the fields, shapes, dtypes and
    ranges of `forward`, `encode` and `decode`; that they change no state; that equal generators
    give equal results, whatever the memory format and the other images of a batch; float32 under
    autocast; gradients; that `update` is the same on every rank; and that what is saved is loaded.
    Raises AssertionError that names the rule. Whether the kernel of a `KernelQuantizer` compiles as
    a whole is not checked: after `quantizer.compile(fullgraph=True)` a call shows it.
    """
    _check_section(config)
    quantizer = _built(config)
    h = _features(quantizer)
    _check_attributes(quantizer)
    leaf = h.clone().requires_grad_()
    _check_forward(quantizer, config, quantizer(leaf, temperature=0.7, generator=_draw(0)))
    _check_codes(quantizer, h)
    _check_purity(quantizer, h)
    _check_repeatability(quantizer, h)
    _check_autocast(quantizer, h)
    _check_gradients(quantizer, h)
    _check_update(quantizer, h)
    _check_saving(quantizer, h, lambda: _built(config, seed=1))


def check_network(config: FlatNetworkConfig, spec: NetworkSpec | None = None) -> None:
    """Check a network against its `NetworkSpec`: shapes, gradients, independence of images.

    spec: the channels to connect [an RGB image, 8 and 5 channels]. Raises AssertionError.
    """
    _check_section(config)
    spec = spec or NetworkSpec(3, 8, 5)
    factor = config.downsampling
    assert isinstance(factor, int) and factor >= 1, f"downsampling: a whole number, found {factor}"
    seeding.reseed_global(0, "check")
    encoder, decoder = build_network(
        config,
        *spec[:3],
        num_heads=spec.num_heads,
        is_bounded=spec.is_bounded,
    )
    images = torch.rand(2, spec.image_channels, 4 * factor, 4 * factor, generator=_draw(0))
    h = encoder(images)
    _same_shape("the encoder's output", h, (2, spec.encoder_channels, 4, 4))
    out = decoder(torch.randn(2, spec.decoder_channels, 4, 4, generator=_draw(1)))
    _same_shape("the decoder's output", out, tuple(images.shape))
    (h.float().square().mean() + out.float().square().mean()).backward()
    for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert parameter.grad is not None, f"{name}: no gradient reaches it, which DDP needs"
    encoder.eval()
    with torch.no_grad():
        alone = torch.cat([encoder(image[None]) for image in images])
        torch.testing.assert_close(
            encoder(images), alone, rtol=1e-4, atol=1e-5,
            msg=lambda text: f"encoder: an image's output depends on others of its batch: {text}",
        )  # fmt: skip


def check_dataset(config: DataConfig, contract: ImageContract, split: str = "train") -> None:
    """Check on the first images of a split that a data source follows `ImageDataset`.

    config: the section of a built-in or registered source. Raises AssertionError.
    """
    _check_section(config)
    dataset, again = (_opened(config, split, contract) for _ in range(2))
    assert isinstance(dataset, ImageDataset) and len(dataset) > 0, "expected one image or more"
    assert dataset.split == split, f"split: expected {split!r}, found {dataset.split!r}"
    assert dataset.contract == contract, "contract: expected the one that was asked for"
    assert dataset.identity() == again.identity(), "identity: expected the same of the same images"
    chosen = [len(dataset) - 1, *range(min(8, len(dataset))), 0]
    batch: ImageBatch = dataset.read(chosen)
    shape = (len(chosen), contract.channels, contract.height, contract.width)
    _same_shape("images", batch.images, shape)
    assert batch.images.dtype == torch.uint8, f"images: expected uint8, found {batch.images.dtype}"
    for name, values in (("labels", batch.labels), ("indices", batch.indices)):
        assert values.dtype == torch.int64, f"{name}: expected int64, found {values.dtype}"
        _same_shape(name, values, (len(chosen),))
    assert batch.indices.tolist() == chosen, f"indices: expected {chosen}, found {batch.indices}"
    low, high = int(batch.labels.min()), int(batch.labels.max())
    classes = len(dataset.class_names)
    assert low >= -1 and high < max(classes, 0), (
        f"labels: expected -1 (none) or less than {classes}, the number of class_names; found "
        f"{low} to {high}"
    )
    for one, other in zip(batch, again.read(chosen), strict=True):
        assert torch.equal(one, other), "read: expected the same images each time, found others"
    try:
        dataset.read([len(dataset)])
    except IndexError:
        return
    raise AssertionError("read: expected IndexError outside the dataset; see check_indices")


def _check_section(config: Section) -> None:
    again = type(config).model_validate(config.model_dump(mode="json"))
    assert again == config, f"{type(config).__name__}: is not the same after it was stored"


def _opened(config: DataConfig, split: str, contract: ImageContract) -> ImageDataset:
    """Return what the source itself opens, whose faults are told by the rule that they break."""
    dataset = open_images(config, split, contract)
    return dataset.dataset if isinstance(dataset, CheckedImages) else dataset


def _built(config: QuantizerConfig, seed: int = 0) -> Quantizer:
    seeding.reseed_global(seed, "check")
    return build_quantizer(config)


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _features(quantizer: Quantizer) -> Tensor:
    images, height, width = SHAPE
    return torch.randn(images, quantizer.in_channels, height, width, generator=_draw(7))


def _check_attributes(quantizer: Quantizer) -> None:
    for name in ("num_codes", "code_dim", "in_channels", "num_heads"):
        value = getattr(quantizer, name, None)
        values = value if name == "num_codes" and isinstance(value, tuple) else (value,)
        assert values and all(isinstance(v, int) and v > 0 for v in values), (
            f"{name}: expected {'a tuple of ' if name == 'num_codes' else ''}whole numbers above "
            f"0, found {value!r}"
        )
    assert isinstance(quantizer.num_codes, tuple), "num_codes: expected a tuple, one K a level"


def _check_forward(quantizer: Quantizer, config: QuantizerConfig, out: Quantized) -> None:
    assert isinstance(out, Quantized), f"forward: expected Quantized, found {type(out).__name__}"
    _same_shape("z_q", out.z_q, (SHAPE[0], quantizer.code_dim, *SHAPE[1:]))
    assert bool(out.z_q.isfinite().all()), "z_q: expected finite values"
    _in_range(quantizer, "forward", out.indices)
    assert tuple(out.losses) == tuple(config.losses), (
        f"losses: the section names {tuple(config.losses)}, forward gives {tuple(out.losses)}"
    )
    for name, loss in out.losses.items():
        assert loss.ndim == 0 and bool(loss.isfinite()), f"loss {name}: expected a finite scalar"
    for name, value in out.stats.items():
        assert not value.requires_grad, f"stats {name}: expected to be detached"
        assert value.ndim == 2 or not is_concatenated(name), f"stats {name}: expected (N, D)"


def _check_codes(quantizer: Quantizer, h: Tensor) -> None:
    with torch.no_grad():
        codes = quantizer.encode(h, generator=_draw(0))
        _in_range(quantizer, "encode", codes)
        z_q = quantizer.decode(codes)
        _same_shape("decode", z_q, (SHAPE[0], quantizer.code_dim, *SHAPE[1:]))
        assert bool(z_q.isfinite().all()), "decode: expected finite values"
        last = tuple(torch.full((1, 1, 1), k - 1) for k in quantizer.num_codes)
        _same_shape(
            "decode of the last codes", quantizer.decode(last), (1, quantizer.code_dim, 1, 1)
        )
        for name, values in quantizer.certainty(h).items():
            _same_shape(f"certainty {name}", values, SHAPE)


def _check_purity(quantizer: Quantizer, h: Tensor) -> None:
    before = _state(quantizer)
    quantizer.train()
    for seed in range(2):
        quantizer(h, generator=_draw(seed))
        quantizer.decode(quantizer.encode(h, generator=_draw(seed)))
    after = _state(quantizer)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert not changed, f"state: only update may change it, forward or encode changed {changed}"


def _check_repeatability(quantizer: Quantizer, h: Tensor) -> None:
    other = h.to(memory_format=torch.channels_last)
    with torch.no_grad():
        one, two = quantizer(h, generator=_draw(5)), quantizer(other, generator=_draw(5))
        assert torch.equal(one.z_q, two.z_q), (
            "forward: expected the same from equal generators, in any memory format"
        )
        quantizer.eval()
        first = quantizer.encode(h, generator=_draw(5))
        assert _equal(first, quantizer.encode(other, generator=_draw(5))), (
            "encode: expected the same codes from equal generators, in any memory format"
        )
        is_sampled = not _equal(first, quantizer.encode(h, generator=_draw(6)))
        if not is_sampled:
            alone = quantizer.encode(h[:1])
            assert _equal(tuple(level[:1] for level in first), alone), (
                "encode: an image's codes depend on the other images of its batch"
            )


def _check_autocast(quantizer: Quantizer, h: Tensor) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = quantizer(h.bfloat16(), generator=_draw(0))
    for name, value in {"z_q": out.z_q, **out.losses, **out.stats}.items():
        assert value.dtype == torch.float32, f"{name}: expected float32 under autocast"


def _check_gradients(quantizer: Quantizer, h: Tensor) -> None:
    leaf = h.clone().requires_grad_()
    out = quantizer(leaf, temperature=0.8, generator=_draw(0))
    total = out.z_q.square().sum() + torch.stack([*out.losses.values(), out.z_q.sum() * 0]).sum()
    total.backward()
    gradient = leaf.grad
    assert gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any()), (
        "gradients: none, or none that is finite, reaches the encoder"
    )
    quantizer.zero_grad()


def _check_update(quantizer: Quantizer, h: Tensor) -> None:
    one, two = copy.deepcopy(quantizer), copy.deepcopy(quantizer)
    stats = {name: v.detach() for name, v in one(h, generator=_draw(0)).stats.items()}
    replaced = one.update(dict(stats), _draw(3))
    two.update(dict(stats), _draw(3))
    assert all(torch.equal(v, _state(two)[name]) for name, v in _state(one).items()), (
        "update: expected the same from equal stats and generators, as ranks have them"
    )
    parameters = dict(one.named_parameters())
    for name, rows in replaced.items():
        assert name in parameters, f"update: {name!r}, whose rows were replaced, is no parameter"
        assert rows.dtype == torch.bool and len(rows) == len(parameters[name]), (
            f"update: expected a truth value for each row of {name}"
        )


def _check_saving(quantizer: Quantizer, h: Tensor, build: Callable[[], Quantizer]) -> None:
    other = build()
    other.load_state_dict(quantizer.state_dict(), strict=True)
    with torch.no_grad():
        codes = [q.eval().encode(h, generator=_draw(0)) for q in (quantizer, other)]
    assert _equal(*codes), "state_dict: codes are others after loading; register what they need"
    with torch.device("meta"):
        skeleton = build()
    forms = [{n: (v.shape, v.dtype) for n, v in q.state_dict().items()} for q in (other, skeleton)]
    assert forms[0] == forms[1], "it has other weights when it is built on the meta device"


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def _equal(one: Codes, other: Codes) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _in_range(quantizer: Quantizer, method: str, codes: Codes) -> None:
    levels = len(quantizer.num_codes)
    assert isinstance(codes, tuple) and len(codes) == levels, (
        f"{method}: expected a tuple of {counted(levels, 'code map')}, one a level of num_codes"
    )
    for level, (indices, k) in enumerate(zip(codes, quantizer.num_codes, strict=True)):
        _same_shape(f"{method}, level {level}", indices, SHAPE)
        assert indices.dtype == torch.int64, f"{method}: expected int64 codes"
        low, high = int(indices.min()), int(indices.max())
        assert 0 <= low <= high < k, f"{method}: expected codes in [0, {k}), found {low} to {high}"


def _same_shape(what: str, value: Tensor, expected: tuple[int, ...]) -> None:
    assert tuple(value.shape) == expected, (
        f"{what}: expected shape {expected}, found {tuple(value.shape)}"
    )
