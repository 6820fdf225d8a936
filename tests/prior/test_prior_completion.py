"""Completing images from their upper code rows: what is given is kept, the rest is drawn."""

import pytest
import torch

from imagetok.errors import ConfigError, InputError
from prior.base import NO_LABEL
from prior.sampling import draw_codes
from prior.sampling_params import SamplingParams
from prior.sequence import Codes, flatten_codes, kept_positions, unflatten_codes


def rows(codes: Codes) -> list[list[int]]:
    return flatten_codes(codes).tolist()


def possible(prior) -> list[int]:
    """Every number of rows that can be kept."""
    grids = prior.config.grids
    fewest = min(h for h, _ in grids)
    return [n for n in range(fewest + 1) if all(n * h % fewest == 0 for h, _ in grids)]


def test_what_is_given_is_kept_exactly_and_the_rest_is_drawn(prior, random_codes):
    given = random_codes(prior, 2)
    for keep_rows in possible(prior):
        completed = prior.sample(34, seed=3, given=given, keep_rows=keep_rows)
        prior.check_codes(completed)
        kept = torch.tensor(kept_positions(prior.config.grids, keep_rows))
        before, after = flatten_codes(given), flatten_codes(completed)
        for j in range(34):
            assert torch.equal(after[j, kept], before[j % 2, kept])
        if not kept.all():
            assert len({tuple(row) for row in after[:, ~kept].tolist()}) > 2


def test_all_rows_kept_give_the_image_back(prior, random_codes):
    given = random_codes(prior, 3)
    completed = prior.sample(3, given=given, keep_rows=possible(prior)[-1])
    assert rows(completed) == rows(given)


def test_no_rows_kept_is_sampling(prior, random_codes):
    given = random_codes(prior, 2)
    label = "none"
    drawn = rows(prior.sample(5, seed=2, label=label))
    assert rows(prior.sample(5, seed=2, label=label, given=given, keep_rows=0)) == drawn


@pytest.mark.parametrize("settings", [{}, {"guidance": 2.0}, {"temperature": 0.8, "top_k": 3}])
def test_a_drawn_image_is_completed_to_itself_by_its_own_seed(settings, prior):
    """So nothing but the given codes decides what follows, whether drawn or given."""
    if "guidance" in settings and not prior.config.num_classes:
        pytest.skip("there is no class to follow")
    label = list(range(prior.config.num_classes)) or "none"
    drawn = prior.sample(5, seed=4, label=label, **settings)
    for keep_rows in possible(prior):
        how = {"label": label, "given": drawn, "keep_rows": keep_rows, **settings}
        assert rows(prior.sample(5, seed=4, **how)) == rows(drawn)
    if possible(prior)[1:-1]:
        how = {"label": label, "given": drawn, "keep_rows": possible(prior)[1], **settings}
        assert rows(prior.sample(5, seed=5, **how)) != rows(drawn)


def test_a_completion_is_the_same_whatever_is_completed_beside_it(prior, random_codes):
    given = random_codes(prior, 4)
    keep_rows = possible(prior)[len(possible(prior)) // 2]
    four = rows(prior.sample(4, seed=1, given=given, keep_rows=keep_rows))
    for j in range(4):
        one = tuple(level[j : j + 1] for level in given)
        assert rows(prior.sample(1, seed=1, first=j, given=one, keep_rows=keep_rows)) == [four[j]]
    many = rows(prior.sample(20, seed=1, given=given, keep_rows=keep_rows))
    assert many[:4] == four


def test_the_rest_is_drawn_from_the_logits_of_what_is_kept(prior, random_codes, position_logits):
    """Greedy, step by step on the full network."""
    given, keep_rows = random_codes(prior, 3), possible(prior)[len(possible(prior)) // 2]
    completed = prior.sample(3, given=given, keep_rows=keep_rows, greedy=True)
    kept = kept_positions(prior.config.grids, keep_rows)
    sequence, labels = flatten_codes(given).clone(), torch.full((3,), NO_LABEL)
    for t in range(prior.config.length):
        if not kept[t]:
            logits = position_logits(prior, unflatten_codes(sequence, prior.config.grids), labels)[
                t
            ]
            sequence[:, t] = draw_codes(logits, torch.zeros(3), SamplingParams(greedy=True))
    assert torch.equal(flatten_codes(completed), sequence)


def test_without_a_label_the_class_is_left_open(flat, random_codes):
    how = {"given": random_codes(flat, 2), "keep_rows": 1}
    assert rows(flat.sample(6, **how)) == rows(flat.sample(6, label=NO_LABEL, **how))
    assert rows(flat.sample(6, **how)) != rows(flat.sample(6, label="all", **how))


def test_what_cannot_be_completed_is_refused(flat, random_codes):
    given = random_codes(flat, 2)
    for keep_rows in (-1, 4):
        with pytest.raises(ConfigError, match=rf"expected 0 to 3.*{keep_rows}"):
            flat.sample(1, given=given, keep_rows=keep_rows)
    for half in ({"given": given}, {"keep_rows": 1}):
        with pytest.raises(ConfigError, match="pass both, or neither"):
            flat.sample(1, **half)
    with pytest.raises(InputError, match=r"codes of shape \(B, 3, 3\), found \(1, 4, 3\)"):
        flat.sample(1, given=(torch.zeros(1, 4, 3, dtype=torch.int64),), keep_rows=1)
    with pytest.raises(InputError, match=r"codes in \[0, 7\), found \[7, 7\]"):
        flat.sample(1, given=(torch.full((1, 3, 3), 7),), keep_rows=1)
    with pytest.raises(InputError, match="at least one image"):
        flat.sample(1, given=(torch.zeros(0, 3, 3, dtype=torch.int64),), keep_rows=1)


def test_codes_may_be_of_any_integer_type(flat, random_codes):
    (codes,) = random_codes(flat, 2)
    wide = flat.sample(2, given=(codes,), keep_rows=2)
    narrow = flat.sample(2, given=(codes.to(torch.int32),), keep_rows=2)
    assert narrow[0].dtype == torch.int64
    assert rows(narrow) == rows(wide)
