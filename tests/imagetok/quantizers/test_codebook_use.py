import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical

from imagetok.quantizers import code_counts, codebook_use

SEEDS = st.integers(0, 2**32 - 1)


@given(num_codes=st.integers(1, 5000), times=st.integers(1, 1000))
def test_uniform_use_has_perplexity_k(num_codes: int, times: int) -> None:
    use = codebook_use(torch.full((num_codes,), times))
    assert use.perplexity == pytest.approx(num_codes, rel=1e-12)
    assert (use.num_codes, use.codes_used) == (num_codes, num_codes)


@given(num_codes=st.integers(1, 500), times=st.integers(1, 10**12))
def test_one_code_has_perplexity_1(num_codes: int, times: int) -> None:
    counts = torch.zeros(num_codes, dtype=torch.int64)
    counts[num_codes // 2] = times
    assert codebook_use(counts) == (num_codes, 1, 1.0)


def test_no_codes_at_all_use_nothing() -> None:
    assert codebook_use(torch.zeros(8, dtype=torch.int64)) == (8, 0, 1.0)


@given(seed=SEEDS, num_codes=st.integers(1, 64), unused=st.integers(0, 10))
def test_perplexity_is_the_entropy_of_torch_distributions(
    seed: int, num_codes: int, unused: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(num_codes, (2, 5, 7), generator=generator)
    counts = code_counts(indices, num_codes + unused)
    assert counts.tolist() == [int((indices == k).sum()) for k in range(num_codes + unused)]
    use = codebook_use(counts)
    entropy = Categorical(probs=counts[:num_codes].double()).entropy()
    assert use.perplexity == pytest.approx(float(entropy.exp()), rel=1e-9)
    assert use.codes_used == len(indices.unique()) and use.num_codes == num_codes + unused
    assert use.perplexity <= use.codes_used * (1 + 1e-12)
    shuffled = counts[torch.randperm(len(counts), generator=generator)]
    assert codebook_use(shuffled).perplexity == pytest.approx(use.perplexity, rel=1e-12)
    assert codebook_use(counts * 3).perplexity == pytest.approx(use.perplexity, rel=1e-12)
