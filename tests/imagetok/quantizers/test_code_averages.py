"""The moving averages behind the codes of VQ-VAE-EMA, each as its reference computes them."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from imagetok import seeding
from imagetok.config import validate
from imagetok.errors import ConfigError
from imagetok.quantizers import VQEMAConfig, build_quantizer
from imagetok.quantizers.codebook_init_reset import LeastRecentlyUsedReset
from imagetok.quantizers.functional import debiased_decay, smoothed_means
from imagetok.quantizers.vq import VQEMAQuantizer

FLOAT64 = torch.float64
K, D = 12, 3
SAVED = ["zeros", "debiased", "ones"]
every_saved_form = pytest.mark.parametrize("averages", SAVED)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(averages: str, dtype: torch.dtype = FLOAT64, **changes: object) -> VQEMAQuantizer:
    seeding.reseed_global(0)
    tree = {"num_codes": K, "code_dim": D, "init": "normal", "averages": averages, **changes}
    quantizer = build_quantizer(validate(tree, VQEMAConfig, "test")).to(dtype)
    assert isinstance(quantizer, VQEMAQuantizer)
    return quantizer


def stream(steps: int, scale: float = 1.0, dtype: torch.dtype = FLOAT64) -> Iterator[Tensor]:
    """Maps (2, D, 4, 4)."""
    for step in range(steps):
        yield scale * torch.randn(2, D, 4, 4, dtype=dtype, generator=gen(step))


Step = Callable[[Tensor, Tensor], Tensor]
"""One-hot rows of codes and the vectors that chose them, to the codes after the step."""


def follow_rosinality(codes: Tensor, decay: float, size: float = 0) -> Step:
    """Sizes from 0, sums from the codes."""
    sizes, sums = torch.full_like(codes[:, 0], size), codes.clone()

    def step(one_hot: Tensor, vectors: Tensor) -> Tensor:
        sizes.copy_(decay * sizes + (1 - decay) * one_hot.sum(dim=0))
        sums.copy_(decay * sums + (1 - decay) * one_hot.T @ vectors)
        return quotient(sizes, sums)

    return step


def follow_sonnet(codes: Tensor, decay: float) -> Step:
    """Hidden averages from 0, both divided by 1 - decay^t."""
    sizes, sums, t = torch.zeros_like(codes[:, 0]), torch.zeros_like(codes), 0

    def step(one_hot: Tensor, vectors: Tensor) -> Tensor:
        nonlocal t
        t += 1
        sizes.sub_((sizes - one_hot.sum(dim=0)) * (1 - decay))
        sums.sub_((sums - one_hot.T @ vectors) * (1 - decay))
        return quotient(sizes / (1 - decay**t), sums / (1 - decay**t))

    return step


def quotient(sizes: Tensor, sums: Tensor) -> Tensor:
    n = sizes.sum()
    return sums / ((sizes + 1e-5) / (n + len(sizes) * 1e-5) * n)[:, None]


FOLLOW = {
    "zeros": follow_rosinality,
    "debiased": follow_sonnet,
    "ones": partial(follow_rosinality, size=1),
}


@pytest.mark.parametrize(("dtype", "rtol"), [(FLOAT64, 1e-10), (torch.float32, 1e-4)])
@every_saved_form
def test_codes_are_those_of_the_reference(averages, dtype, rtol):
    quantizer = build(averages, dtype, decay=0.8)
    step = FOLLOW[averages](quantizer.codebook.clone(), 0.8)
    seen = set()
    for h in stream(150, dtype=dtype):
        vectors = h.movedim(1, -1).flatten(0, 2)
        out = quantizer(h)
        nearest = torch.cdist(vectors, quantizer.codebook).amin(dim=1)
        error = (vectors - out.z_q.detach().movedim(1, -1).flatten(0, 2)).norm(dim=1)
        assert_close(error, nearest, rtol=1e-3, atol=1e-3)
        indices = out.indices[0].flatten()
        seen |= set(indices.tolist())
        expected = step(torch.nn.functional.one_hot(indices, K).to(dtype), vectors)
        quantizer.update(out.stats, gen())
        assert_close(quantizer.codebook, expected, rtol=rtol, atol=rtol * 1e-2)
    assert len(seen) == K  # every code comes into use


@given(decay=st.floats(0, 0.9999), seed=st.integers(0, 2**32 - 1))
def test_an_average_with_the_debiased_decay_is_the_debiased_average(decay, seed):
    values = torch.randn(30, dtype=FLOAT64, generator=gen(seed))
    hidden, average = torch.zeros((), dtype=FLOAT64), torch.full((), 1e9, dtype=FLOAT64)
    for t, value in enumerate(values, start=1):
        hidden = decay * hidden + (1 - decay) * value
        rate = debiased_decay(decay, torch.tensor(float(t), dtype=FLOAT64))
        average = rate * average + (1 - rate) * value
        assert_close(average, hidden / (1 - decay**t), rtol=1e-6, atol=1e-9)


def test_the_debiased_decay_rises_from_0_to_the_decay():
    rates = [float(debiased_decay(0.99, torch.tensor(float(t)))) for t in (1, 2, 10, 100, 10_000)]
    assert rates[0] == 0 and rates == sorted(rates)
    assert rates[1] == pytest.approx(0.99 / 1.99) and rates[-1] == pytest.approx(0.99)


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.01, 100))
def test_smoothing_keeps_the_total_and_means_of_large_clusters(seed, scale):
    sizes = 100 * torch.rand(K, dtype=FLOAT64, generator=gen(seed)) + 1
    sums = torch.randn(K, D, dtype=FLOAT64, generator=gen(seed))
    assert_close(smoothed_means(sizes, sums), sums / sizes[:, None], rtol=1e-4, atol=0)
    smoothed = sums[:, 0] / smoothed_means(sizes, sums)[:, 0]
    assert_close(smoothed.sum(), sizes.sum())
    assert_close(smoothed_means(sizes, scale * sums), scale * smoothed_means(sizes, sums))
    sizes[0], sums[0] = 0, 0
    assert not smoothed_means(sizes, sums)[0].any()


def test_the_first_debiased_codes_are_the_means_of_the_first_step():
    quantizer = build("debiased")
    (h,) = stream(1)
    out = quantizer(h)
    quantizer.update(out.stats, gen())
    counts, sums = out.stats["counts"], out.stats["sums"]
    assert torch.equal(quantizer.cluster_size, counts) and torch.equal(quantizer.cluster_sum, sums)
    assert not quantizer.codebook[counts == 0].any() and (counts == 0).any()
    used = counts > 0
    assert_close(quantizer.codebook[used], sums[used] / counts[used, None], rtol=1e-4, atol=0)


def test_zero_sizes_throw_an_unused_code_out():
    quantizer = build("zeros")
    before = quantizer.codebook.clone()
    (h,) = stream(1)
    unused = (out := quantizer(h)).stats["counts"] == 0
    assert unused.any()
    quantizer.update(out.stats, gen())
    factor = quantizer.codebook[unused] / before[unused]
    assert_close(factor, torch.full_like(factor, 0.99e5), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("averages", "comes_back"), [*((a, True) for a in SAVED), ("increments", False)]
)
def test_a_code_unused_for_long_comes_back(averages, comes_back):
    quantizer = build(averages, decay=0.8)
    quantizer.codebook[1:] += 100 * quantizer.codebook[1:].sign()  # out of reach of the data
    if averages in ("zeros", "ones"):
        quantizer.cluster_sum.copy_(quantizer.codebook)
    for step, h in enumerate(stream(200, scale=0.1)):
        out = quantizer(h)
        # Debiased codes are at the origin after the first step; the others still have to shrink.
        if step < (1 if averages == "debiased" else 20):
            assert not out.indices[0].any()
        quantizer.update(out.stats, gen())
    (h,) = stream(1, scale=0.1)
    if averages == "increments":
        assert not quantizer.encode(h)[0].any()
    else:
        assert len(quantizer.encode(h)[0].unique()) > 3


@every_saved_form
def test_decay_0_gives_the_means_of_each_step(averages):
    quantizer = build(averages, decay=0)
    for h in stream(3):
        out = quantizer(h)
        quantizer.update(out.stats, gen())
        expected = smoothed_means(out.stats["counts"], out.stats["sums"])
        assert torch.equal(quantizer.codebook, expected)


@every_saved_form
def test_micro_batches_move_the_codes_as_one_batch_does(averages):
    whole, split = build(averages), build(averages)
    for h in stream(30):
        whole.update(whole(h).stats, gen())
        parts = [split(part).stats for part in h.split(1)]
        split.update({name: sum(part[name] for part in parts) for name in parts[0]}, gen())
        assert_close(split.codebook, whole.codebook)


@every_saved_form
def test_a_replaced_code_counts_as_one_vector_and_stays(averages):
    reset = {"kind": "least-recently-used", "timeout": 3, "noise": 0.0}
    quantizer = build(averages, reset=reset, num_codes=40)
    timeout = validate(reset, LeastRecentlyUsedReset, "test").timeout
    for step, h in enumerate(stream(timeout)):
        out = quantizer(h)
        before = quantizer.codebook.clone()
        quantizer.update(out.stats, gen(step))
    rows = (quantizer.cluster_size == 1) & (out.stats["counts"] == 0)
    vectors = h.movedim(1, -1).flatten(0, 2)
    assert rows.any() and not rows.all()
    assert torch.equal(quantizer.cluster_sum[rows], quantizer.codebook[rows])
    assert (torch.cdist(quantizer.codebook[rows], vectors).amin(dim=1) < 0.1).all()
    assert not torch.equal(quantizer.codebook[rows], before[rows])
    # A step in which it is not used leaves it where it is, up to the smoothing.
    replaced = quantizer.codebook[rows].clone()
    h = torch.full((1, D, 2, 2), 50.0, dtype=FLOAT64)
    quantizer.update(quantizer(h).stats, gen())
    assert_close(quantizer.codebook[rows], replaced, rtol=1e-3, atol=0)


@pytest.mark.parametrize("init", ["data", "kmeans"])
@every_saved_form
def test_codes_from_the_data_have_size_1(averages, init):
    quantizer = build(averages, init=init)
    (h,) = stream(1)
    quantizer.update(quantizer(h).stats, gen())
    assert (quantizer.cluster_size == 1).all()
    assert torch.equal(quantizer.cluster_sum, quantizer.codebook)
    assert (torch.cdist(quantizer.codebook, h.movedim(1, -1).flatten(0, 2)).amin(dim=1) < 1).all()


def test_the_averages_are_state_and_increments_keep_no_more_than_before():
    names = {a: set(build(a).state_dict()) for a in ("increments", *SAVED)}
    before = {"codebook", "cluster_size"}
    assert names["increments"] == before
    assert names["zeros"] == names["ones"] == before | {"cluster_sum"}
    assert names["debiased"] == before | {"cluster_sum", "num_updates"}


def test_a_config_without_the_key_is_dumped_as_before():
    absent, stated = VQEMAConfig(), VQEMAConfig(averages="increments")
    assert absent == stated and "averages" not in stated.model_dump()
    for averages in SAVED:
        dumped = VQEMAConfig(averages=averages).model_dump(mode="json")
        assert dumped["averages"] == averages
        assert validate(dumped, VQEMAConfig, "test").averages == averages


def test_unknown_averages_are_refused():
    says = r"here: averages: .*'increments', 'zeros', 'debiased' or 'ones'.*\(found 'twos'\)"
    with pytest.raises(ConfigError, match=says):
        validate({"averages": "twos"}, VQEMAConfig, "here")
