"""Pieces of rows: what is worked on piece by piece is what it is at once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from imagetok.quantizers import functional, fused
from imagetok.quantizers.fused import chunks, first_argmax

SEEDS = st.integers(0, 2**32 - 1)


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(seed=SEEDS, size=st.integers(1, 20), num_codes=st.integers(1, 130))
def test_first_largest_is_the_first_of_several(seed: int, size: int, num_codes: int) -> None:
    matrix = torch.randint(-2, 3, (size, num_codes), generator=gen(seed)).float()
    expected = [row.index(max(row)) for row in matrix.tolist()]
    assert first_argmax(matrix).tolist() == expected


def test_what_is_no_number_is_found_as_by_argmax() -> None:
    matrix = torch.zeros(3, 64)
    matrix[0, 40] = matrix[1, :] = torch.nan
    matrix[2, 5] = torch.inf
    assert first_argmax(matrix).tolist() == matrix.argmax(dim=1).tolist()


def test_pieces_are_all_rows_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_IN_CACHE", 12)
    matrix, other = torch.arange(28.0).view(7, 4), torch.arange(7)
    parts = list(chunks(matrix, other))
    assert [len(scratch) for *_, scratch in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([part for part, _, _ in parts]), matrix)
    assert torch.equal(torch.cat([part for _, part, _ in parts]), other)


def everything(logits: torch.Tensor, codebook: torch.Tensor) -> list[torch.Tensor]:
    logits, codebook = logits.clone().requires_grad_(), codebook.clone().requires_grad_()
    uniforms = torch.rand(logits[:, 0].numel(), len(codebook), dtype=logits.dtype, generator=gen(2))
    temperature = torch.tensor(0.8, dtype=logits.dtype)
    z_q, indices = functional.relaxed_codes(logits, uniforms, codebook, temperature)
    kl = functional.categorical_kl_to_uniform(logits)
    dirichlet = functional.dirichlet_kl_to_uniform(1 + logits.exp())
    (z_q.square().sum() + (kl * dirichlet).sum()).backward()
    assert logits.grad is not None and codebook.grad is not None
    likely = functional.most_likely(logits)
    return [z_q, indices, kl, dirichlet, likely, logits.grad, codebook.grad]


@pytest.mark.parametrize("cache", [1, 50, 1 << 19])
def test_the_size_of_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch, cache: int) -> None:
    logits = torch.randn(2, 16, 3, 5, dtype=torch.float64, generator=gen(0))
    codebook = torch.randn(16, 4, dtype=torch.float64, generator=gen(1))
    expected = everything(logits, codebook)
    monkeypatch.setattr(fused, "_IN_CACHE", cache)
    for layout in (torch.contiguous_format, torch.channels_last):
        found = everything(logits.contiguous(memory_format=layout), codebook)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, rtol=1e-12, atol=1e-14)
