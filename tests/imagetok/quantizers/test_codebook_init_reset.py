"""How codes start and when they are replaced."""

import copy
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from imagetok import seeding
from imagetok.quantizers import VQConfig, VQEMAConfig, VQSTEConfig, build_quantizer
from imagetok.quantizers.codebook_init_reset import (
    LeastRecentlyUsedReset,
    NoReset,
    RandomReset,
    SplitReset,
    build_reset,
)
from imagetok.quantizers.functional import draw_vectors, k_means, nearest_codes
from imagetok.quantizers.vqste import AffineConfig, AlternationConfig

FLOAT64 = torch.float64
D = 3
CONFIGS = [
    VQConfig(code_dim=D),
    VQEMAConfig(code_dim=D),
    VQEMAConfig(code_dim=D, averages="zeros"),
    VQEMAConfig(code_dim=D, averages="debiased"),
    VQSTEConfig(code_dim=D, affine=AffineConfig(rate=2.0)),
    VQSTEConfig(code_dim=D, affine=None, alternation=AlternationConfig()),
]
every_kind = pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=FLOAT64, generator=gen(seed))


def build(config, **changes: object):
    seeding.reseed_global(0)
    quantizer = build_quantizer(config.model_copy(update=changes)).double()
    if isinstance(config, VQSTEConfig) and config.affine:
        quantizer.affine.scale.data.uniform_(0.05, 0.1)
        quantizer.affine.bias.data.uniform_(0.05, 0.1)
    return quantizer


def codes(quantizer) -> Tensor:
    """The codes as they are looked up, (K, D)."""
    count = quantizer.num_codes[0]
    return quantizer.decode((torch.arange(count).view(1, 1, -1),))[0, :, 0].T.detach()


def as_rows(h: Tensor) -> Tensor:
    return h.movedim(1, -1).flatten(0, 2)


def contains(vectors: Tensor, row: Tensor) -> bool:
    return bool(((vectors - row).abs().amax(dim=1) < 1e-9).any())


@pytest.mark.parametrize(
    ("init", "spread"),
    [("uniform", 1 / 3), ("normal", 64**2), ("small-normal", (64 * 0.02) ** 2)],
)
def test_codes_start_as_asked(init: str, spread: float) -> None:
    codebook = build(VQConfig(num_codes=64, code_dim=50), init=init).codebook.detach() * 64
    assert codebook.square().mean() == pytest.approx(spread, rel=0.1)
    assert (codebook.abs().max() <= 1) == (init == "uniform")


@every_kind
@pytest.mark.parametrize("init", ["data", "kmeans"])
def test_codes_start_from_the_first_step_once(config, init: str) -> None:
    quantizer = build(config, init=init, reset=NoReset(), num_codes=10)
    assert not quantizer.renewal.started
    h = randn(4, D, 5, 5)
    out = quantizer(h)
    assert sorted(map(tuple, out.stats["vectors"].tolist())) == sorted(
        map(tuple, as_rows(h).tolist())
    )
    replaced = quantizer.update(out.stats, gen())
    assert quantizer.renewal.started
    for name, rows in replaced.items():
        assert name == "codebook" and rows.all() and quantizer.get_parameter(name) is not None
    assert bool(replaced) == isinstance(quantizer.codebook, torch.nn.Parameter)
    if init == "data":
        assert all(contains(as_rows(h), row) for row in codes(quantizer))
        assert len(codes(quantizer).unique(dim=0)) == 10
    started = codes(quantizer)
    out = quantizer(h)
    assert "vectors" not in out.stats and quantizer.update(out.stats, gen()) == {}
    if isinstance(config, VQConfig):
        assert torch.equal(codes(quantizer), started)
    again = build(config, init=init, reset=NoReset(), num_codes=10)
    assert "vectors" in again(h).stats
    again.load_state_dict(quantizer.state_dict())  # as a resumed run does
    assert "vectors" not in again(h).stats
    again.load_state_dict(build(config, init=init, reset=NoReset(), num_codes=10).state_dict())
    assert "vectors" in again(h).stats


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda q: q.to(torch.float32)], ids=["deepcopy", "to"]
)
def test_copies_know_whether_codes_have_started(copied) -> None:
    for is_started in (False, True):
        quantizer = build(VQConfig(code_dim=D), init="data", num_codes=10)
        h = randn(4, D, 5, 5)
        if is_started:
            quantizer.update(quantizer(h).stats, gen())
        copy_ = copied(quantizer)
        out = copy_(h.to(copy_.codebook.dtype))
        assert ("vectors" in out.stats) != is_started
        assert bool(copy_.renewal.started) == is_started
        assert bool(copy_.update(out.stats, gen())) != is_started
        assert bool(copy_.renewal.started)


def test_a_loaded_state_says_whether_codes_have_started_also_if_it_is_assigned() -> None:
    started = build(VQConfig(code_dim=D), init="data", num_codes=10)
    started.update(started(randn(4, D, 5, 5)).stats, gen())
    before = build(VQConfig(code_dim=D), init="data", num_codes=10)
    with torch.device("meta"):
        skeleton = build_quantizer(VQConfig(code_dim=D, init="data", num_codes=10))
    for state, is_started in ((before, False), (started, True), (before, False)):
        skeleton.load_state_dict(state.state_dict(), assign=True)
        assert ("vectors" in skeleton(randn(4, D, 5, 5)).stats) != is_started


@pytest.mark.parametrize("kind", ["none", "split"])
def test_vectors_are_kept_only_where_they_are_needed(kind: str) -> None:
    reset = {"none": NoReset(), "split": SplitReset()}[kind]
    for config in (VQConfig(reset=reset), VQEMAConfig(reset=reset)):
        assert "vectors" not in build(config)(randn(2, 16, 4, 4)).stats
    state = build_quantizer(VQEMAConfig()).state_dict()
    assert set(state) == {"codebook", "cluster_size"}  # what was saved before these features


def test_no_more_vectors_are_kept_than_needed_and_none_is_preferred() -> None:
    quantizer = build(VQConfig(code_dim=1, num_codes=4), reset=RandomReset())
    h = torch.arange(1024, dtype=FLOAT64).view(4, 1, 16, 16)
    drawn = [quantizer(h, generator=gen(seed)).stats["vectors"] for seed in range(200)]
    assert all(len(v) == len(v.unique()) == 256 for v in drawn)
    assert torch.equal(drawn[3], quantizer(h, generator=gen(3)).stats["vectors"])
    share = torch.bincount(torch.cat(drawn).flatten().long(), minlength=1024).double() / 200
    # A vector is kept with probability 1/4; quarters of the batch are 51,200 draws each.
    for quarter in share.split(256):
        assert quarter.mean() == pytest.approx(0.25, abs=0.01)


@given(seed=st.integers(0, 2**32 - 1))
def test_k_means_lowers_the_distortion_and_is_a_function_of_the_seed(seed: int) -> None:
    clusters = 10 * randn(6, D, seed=seed)
    vectors = (clusters[:, None] + 0.1 * randn(6, 20, D, seed=seed + 1)).flatten(0, 1)

    def distortion(centres: Tensor) -> Tensor:
        return (vectors - centres[nearest_codes(vectors, centres)]).square().sum(dim=1).mean()

    found = [distortion(k_means(vectors, 6, gen(seed), steps)) for steps in (0, 1, 2, 10)]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(found))
    random = sum(distortion(draw_vectors(vectors, 6, gen(i))) for i in range(10)) / 10
    assert found[-1] < 0.8 * random
    assert torch.equal(k_means(vectors, 6, gen(seed)), k_means(vectors, 6, gen(seed)))


def test_k_means_takes_every_vector_where_there_are_as_many_codes() -> None:
    vectors = torch.cat([randn(5, D), randn(5, D)])  # and some twice
    centres = k_means(vectors, 5, gen())
    assert_close(centres.sort(dim=0).values, randn(5, D).sort(dim=0).values)
    assert k_means(vectors, 10, gen()).isfinite().all()


@pytest.mark.parametrize("init", ["data", "kmeans"])
def test_fewer_vectors_than_codes_are_repeated_with_noise(init: str) -> None:
    quantizer = build(VQConfig(num_codes=40, code_dim=D), init=init)
    h = 10 * randn(1, D, 2, 3)
    quantizer.update(quantizer(h).stats, gen())
    assert len(codes(quantizer).unique(dim=0)) == 40
    nearest = torch.cdist(codes(quantizer), as_rows(h)).amin(dim=1)
    assert nearest.max() < 0.05 and nearest.mean() > 0.001  # N(0, (0.01 / sqrt(D))^2)


def test_rarely_used_codes_are_replaced() -> None:
    reset = build_reset(RandomReset(threshold=1.0, decay=0.5), 4).double()
    codebook, vectors = randn(4, D), randn(9, D, seed=1)
    stats = {"counts": torch.tensor([9.0, 1.0, 0.0, 0.5], dtype=FLOAT64), "vectors": vectors}
    renewed = reset(codebook, stats, gen())
    assert renewed.rows.tolist() == [False, False, True, True]
    assert torch.equal(renewed.codebook[:2], codebook[:2])
    assert all(contains(vectors, row) for row in renewed.codebook[2:])
    assert not torch.equal(renewed.codebook[2], renewed.codebook[3])
    assert reset.usage.tolist() == [5, 1, 1, 1]
    stats["counts"] = torch.tensor([0.0, 0.0, 1.0, 2.0], dtype=FLOAT64)
    assert reset(codebook, stats, gen()).rows.tolist() == [False, True, False, False]


def test_a_fresh_codebook_is_not_thrown_away_whatever_the_threshold() -> None:
    reset = build_reset(RandomReset(threshold=2.0), 4).double()
    stats = {"counts": torch.full((4,), 50.0, dtype=FLOAT64), "vectors": randn(9, D)}
    assert not reset(randn(4, D), stats, gen()).rows.any()


def test_codes_not_used_for_long_are_replaced() -> None:
    reset = build_reset(LeastRecentlyUsedReset(timeout=3, noise=0.01), 3).double()
    codebook, vectors = randn(3, D), randn(9, D, seed=1)
    rows = []
    for counts in ([1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 5], [0, 1, 0]):
        stats = {"counts": torch.tensor(counts, dtype=FLOAT64), "vectors": vectors}
        renewed = reset(codebook, stats, gen())
        rows.append("".join(str(int(r)) for r in renewed.rows))
        assert torch.equal(renewed.codebook[~renewed.rows], codebook[~renewed.rows])
        for row in renewed.codebook[renewed.rows]:
            distance, nearest = torch.cdist(row[None], vectors)[0].min(dim=0)
            assert 0 < distance < 0.01 * vectors[nearest].norm() * 5 * D**0.5
    assert rows == ["000", "000", "010", "100", "000", "000"]


def test_the_most_used_code_is_split() -> None:
    reset = build_reset(SplitReset(every=2, threshold=0.25, noise=1e-3), 4).double()
    codebook = randn(4, D)
    rows = []
    distances = []
    for counts in (
        [4, 1, 2, 9], [4, 0, 2, 9],  # 1 of 18: split
        [9, 4, 4, 4], [9, 5, 4, 5],  # 8 of 18: nobody is rare enough
        [9, 0, 0, 1], [0, 0, 0, 1],  # of two that are never used, the first
    ):  # fmt: skip
        renewed = reset(codebook, {"counts": torch.tensor(counts, dtype=FLOAT64)}, gen())
        rows.append("".join(str(int(r)) for r in renewed.rows))
        assert torch.equal(renewed.codebook[~renewed.rows], codebook[~renewed.rows])
        if renewed.rows.any():
            most = {1: 3, 5: 0}[len(rows) - 1]
            distances.append(float((renewed.codebook[1] - codebook[most]).norm()))
    assert rows == ["0000", "0100", "0000", "0000", "0000", "0100"]
    assert distances[1] == pytest.approx(distances[0] / 2) and 0 < distances[0] < 0.01


@every_kind
@pytest.mark.parametrize(
    "reset", [RandomReset(), LeastRecentlyUsedReset(timeout=1, noise=0)], ids=["random", "lru"]
)
def test_a_revived_code_survives_its_step(config, reset) -> None:
    quantizer = build(config, init="normal", reset=reset, num_codes=8)
    h = 0.01 * randn(2, D, 4, 4)
    h[1] += 30
    out = quantizer(h)
    dead = torch.bincount(out.indices[0].flatten(), minlength=8) == 0
    assert dead.any() and not dead.all()
    replaced = quantizer.update(out.stats, gen())
    assert all(contains(as_rows(h), row) for row in codes(quantizer)[dead])
    for rows in replaced.values():
        assert torch.equal(rows, dead)
    if isinstance(config, VQEMAConfig):
        assert (quantizer.cluster_size[dead] == 1).all()
        if config.averages != "increments":
            assert torch.equal(quantizer.cluster_sum[dead], quantizer.codebook[dead])
    if isinstance(config, VQSTEConfig) and config.alternation:
        velocity = quantizer.alternation.velocity
        assert not velocity[dead].any() and velocity[~dead].any()
    used = quantizer.encode(h)[0].unique()
    assert dead[used].any()  # it is the nearest code of the vector that it was taken from


@every_kind
@pytest.mark.parametrize(
    "reset",
    [RandomReset(), LeastRecentlyUsedReset(timeout=2), SplitReset(every=2, threshold=1.0)],
    ids=lambda reset: reset.kind,
)
def test_updates_are_a_function_of_state_stats_and_generator(config, reset) -> None:
    quantizer = build(config, init="kmeans", reset=reset, num_codes=8)
    other = copy.deepcopy(quantizer)
    for step in range(6):
        stats = quantizer(randn(2, D, 4, 4, seed=step)).stats
        quantizer.update(stats, gen(step))
        other.update(stats, gen(step))
        fresh = build(config, init="kmeans", reset=reset, num_codes=8)
        fresh.load_state_dict(other.state_dict())  # a run that is stopped and resumed
        other = fresh
    a, b = quantizer.state_dict(), other.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
