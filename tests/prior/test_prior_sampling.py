"""Sampling: image j depends on the seed, j, its label and the settings, and on nothing else."""

import json

import numpy as np
import pytest
import torch
from sampling_parts import make_prior_folder
from torch.testing import assert_close

from imagetok import seeding
from imagetok.errors import ConfigError
from prior.base import NO_LABEL
from prior.generation import generate
from prior.guidance import GuidedStepper
from prior.loading import open_pair
from prior.sample_folder import RECORD
from prior.sampling import MICRO_BATCH, draw_codes, fast_micro_batch
from prior.sampling_params import SamplingParams
from prior.sequence import Codes, flatten_codes, unflatten_codes


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def rows(codes: Codes) -> list[list[int]]:
    return flatten_codes(codes).tolist()


def test_samples_are_codes_of_the_prior(prior):
    codes = prior.sample(5)
    prior.check_codes(codes)
    assert [tuple(level.shape) for level in codes] == [(5, *grid) for grid in prior.config.grids]
    assert all(level.dtype == torch.int64 for level in codes)
    assert len({tuple(row) for row in rows(prior.sample(30))}) > 10


def test_an_image_is_the_same_whatever_is_drawn_beside_it(prior):
    whole = rows(prior.sample(37, seed=3))
    for n in (0, 1, 5, 20, 37):
        assert rows(prior.sample(n, seed=3)) == whole[:n]
    for first, n in ((36, 1), (17, 3), (16, 16), (5, 20), (1, 0)):
        assert rows(prior.sample(n, seed=3, first=first)) == whole[first : first + n]


def test_an_image_is_the_same_with_any_number_of_threads(flat, two_threads):
    two = rows(flat.sample(37, seed=3))
    assert torch.get_num_threads() == 2  # the caller's own
    torch.set_num_threads(1)
    assert rows(flat.sample(37, seed=3)) == two


def test_every_forward_pass_has_one_size_and_one_thread(flat, monkeypatch, two_threads):
    """What the last bit of a logit can depend on."""
    seen, start = [], flat.prepare()

    def spy(labels):
        seen.append((len(labels), torch.get_num_threads()))
        return start(labels)

    monkeypatch.setattr(flat, "prepare", lambda: spy)
    flat.sample(3, first=15)
    assert seen == [(MICRO_BATCH, 1)] * 2


def test_a_prior_in_training_mode_draws_and_judges_without_dropout(flat, random_codes):
    codes = random_codes(flat, 2)
    drawn, judged = rows(flat.sample(3)), flat.log_prob(codes)
    flat.train()
    assert rows(flat.sample(3)) == drawn
    assert torch.equal(flat.log_prob(codes), judged)
    assert flat.training


def test_sampling_neither_reads_nor_moves_the_global_generator(flat):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = rows(flat.sample(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert rows(flat.sample(3)) == one


def test_another_seed_gives_other_images(flat):
    draws = [tuple(map(tuple, rows(flat.sample(8, seed=seed)))) for seed in range(4)]
    assert len(set(draws)) == 4


@pytest.mark.parametrize(
    "settings",
    [
        SamplingParams(),
        SamplingParams(temperature=0.7, top_k=3, top_p=0.9),
        SamplingParams(guidance=2.5),
        SamplingParams(guidance=0.5, temperature=1.3),
        SamplingParams(greedy=True),
        SamplingParams(greedy=True, guidance=3.0),
    ],
)
def test_each_code_is_drawn_from_the_logits_of_all_before_it(settings, prior, position_logits):
    """Teacher forcing on what was drawn, with the images' own uniforms, draws it again."""
    if settings.guidance != 1 and not prior.config.num_classes:
        pytest.skip("there is no class to follow")
    n, seed, length = 4, 5, prior.config.length
    cycle = prior.labels_for(None)
    labels = torch.tensor([cycle[j % len(cycle)] for j in range(n)])
    codes = prior.sample(n, **dict(settings) | {"seed": seed})
    uniforms = torch.stack(
        [
            torch.rand(length, generator=seeding.generator(seed, "sample", j), dtype=torch.float64)
            for j in range(n)
        ]
    )
    conditional = position_logits(prior, codes, labels)
    null = position_logits(prior, codes, torch.full((n,), NO_LABEL))
    for t, drawn in enumerate(flatten_codes(codes).unbind(1)):
        s = settings.guidance
        logits = conditional[t] if s == 1 else (1 - s) * null[t] + s * conditional[t]
        assert torch.equal(drawn, draw_codes(logits, uniforms[:, t], settings))


def test_greedy_takes_the_most_likely_code_at_each_step(prior, position_logits):
    codes = prior.sample(3, greedy=True)
    sequence = torch.zeros(3, prior.config.length, dtype=torch.int64)
    cycle = prior.labels_for(None)
    labels = torch.tensor([cycle[j % len(cycle)] for j in range(3)])
    for t in range(prior.config.length):
        so_far = unflatten_codes(sequence, prior.config.grids)
        sequence[:, t] = position_logits(prior, so_far, labels)[t].argmax(1)
    assert torch.equal(flatten_codes(codes), sequence)
    assert rows(prior.sample(3, greedy=True, seed=9)) == rows(codes)


def test_top_k_of_one_is_greedy(flat):
    assert rows(flat.sample(6, top_k=1)) == rows(flat.sample(6, greedy=True))


def test_guidance_1_is_off_and_0_forgets_the_label(flat):
    assert rows(flat.sample(6, label=1, guidance=1.0)) == rows(flat.sample(6, label=1))
    assert rows(flat.sample(6, label=1, guidance=0.0)) == rows(flat.sample(6, label=NO_LABEL))
    assert rows(flat.sample(6, label=1, guidance=3.0)) != rows(flat.sample(6, label=1))


def test_guidance_runs_both_halves_as_one_batch(flat):
    """u + g (c - u), from one stepper of twice the images."""
    labels, sizes = torch.tensor([0, 2, 1]), []

    def start(both: torch.Tensor):
        sizes.append(len(both))
        return flat.stepper(both)

    guided = GuidedStepper(start, labels, 2.5)
    steppers = [flat.stepper(labels), flat.stepper(torch.full_like(labels, NO_LABEL))]
    previous = None
    for code in (3, 0, 6):
        given, null = (stepper.next_logits(previous) for stepper in steppers)
        assert_close(guided.next_logits(previous), -1.5 * null + 2.5 * given, atol=1e-4, rtol=0)
        previous = torch.full((3,), code)
    assert sizes == [6]


def test_labels_repeat_over_the_images(flat):
    n = 20  # more than a micro-batch
    by_class = [rows(flat.sample(n, label=c)) for c in (0, 1, 2, NO_LABEL)]
    assert rows(flat.sample(n)) == [by_class[j % 3][j] for j in range(n)]
    assert rows(flat.sample(n, label=[2, -1])) == [by_class[(2, 3)[j % 2]][j] for j in range(n)]
    assert rows(flat.sample(2, label=[2, 0, 1], first=4)) == [by_class[0][4], by_class[1][5]]
    assert rows(flat.sample(n, label="all")) == rows(flat.sample(n))
    assert rows(flat.sample(n, label="none")) == by_class[3]


def test_a_prior_without_classes_draws_without_a_label(unconditional):
    drawn = rows(unconditional.sample(3))
    assert rows(unconditional.sample(3, label=NO_LABEL)) == drawn
    assert rows(unconditional.sample(3, label="none")) == drawn
    with pytest.raises(ConfigError, match="guidance: found 2"):
        unconditional.sample(1, guidance=2.0)
    for label in (0, "0", "all", "cat"):
        with pytest.raises(ConfigError, match="trained without classes"):
            unconditional.sample(1, label=label)


def test_what_cannot_be_drawn_is_refused(flat):
    for label in (3, -2, [0, 3]):
        with pytest.raises(ConfigError, match=r"0\.\.2, all or none \(-1\)"):
            flat.sample(1, label=label)
    for name, value in [("temperature", -1.0), ("top_k", 0), ("top_p", 0.0), ("guidance", -1.0)]:
        with pytest.raises(ConfigError, match=name):
            flat.sample(1, **{name: value})
    with pytest.raises(ConfigError, match=r"temperature.*above 0, found 0\.0.*greedy"):
        flat.sample(1, temperature=0.0)
    with pytest.raises(ConfigError, match="codebook size 7, found 8"):
        flat.sample(1, top_k=8)
    for settings in ({"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.5}):
        with pytest.raises(ConfigError, match="greedy: chooses the most likely code"):
            flat.sample(1, greedy=True, **settings)
    for label in ("--1", "²", "9" * 5000, "1.0", ""):
        with pytest.raises(ConfigError, match=r"0\.\.2, all or none"):
            flat.sample(1, label=label)
    for label in ("none", [-1, -1]):
        with pytest.raises(ConfigError, match="guidance: found 2"):
            flat.sample(1, label=label, guidance=2.0)
    for n, first in ((-1, 0), (1, -1)):
        with pytest.raises(ConfigError, match=r": expected a whole number of 0 or more, found -1"):
            flat.sample(n, first=first)


def test_a_prior_that_never_saw_an_image_without_a_class_says_so(flat):
    from prior.build import build_prior

    known = flat.config.model_copy(update={"label_dropout": 0.0})
    strict = build_prior(known)
    for settings in ({"guidance": 2.0}, {"label": -1}):
        with pytest.raises(ConfigError, match="label_dropout"):
            strict.sample(1, **settings)
    assert strict.sample(1, label=1)[0].shape == (1, 3, 3)


def test_a_class_may_be_given_by_its_name(flat):
    names = flat.config.class_names
    for number, name in enumerate(names):
        assert flat.labels_for(name) == flat.labels_for(number) == [number]
    assert flat.labels_for([names[1], "2", -1]) == [1, 2, -1]
    with pytest.raises(ConfigError, match=rf"a class name like {names[0]}.*found 'zebra'"):
        flat.labels_for("zebra")


def named(flat, *names: str):
    """The same prior with other names of its three classes."""
    flat.config = flat.config.model_copy(update={"class_names": names})
    return flat


@pytest.mark.usefixtures("untyped")
def test_a_name_may_be_written_in_either_unicode_form(flat):
    assert named(flat, "tea", "cafe\u0301", "milk").labels_for("caf\u00e9") == [1]
    both = named(flat, "tea", "cafe\u0301", "caf\u00e9")
    assert both.labels_for(["caf\u00e9", "cafe\u0301"]) == [2, 1]


@pytest.mark.usefixtures("untyped")
def test_a_label_means_the_same_whatever_its_type(flat, caplog):
    numbered = named(flat, "10", "2", "1")
    for label in (1, "1", np.int64(1), torch.tensor(1)):
        assert numbered.labels_for(label) == [2]
    for labels in ([1, "10"], "1,10", " 1 , 10", np.array([1, 10]), torch.tensor([1, 10])):
        assert numbered.labels_for(labels) == [2, 0]
    assert "label 1: the class of this name, number 2, not number 1, which is '2'" in caplog.text
    for label in (0, "0", [0], 3):
        with pytest.raises(ConfigError, match=r"expected a class name like 10, 2, 1, all or none"):
            numbered.labels_for(label)


def test_every_class_can_be_named(flat):
    odd = named(flat, "salt, pepper", "all", "none")
    assert odd.labels_for("salt, pepper") == odd.labels_for(["salt, pepper"]) == [0]
    assert odd.labels_for(r"none,salt\, pepper") == [2, 0]
    assert odd.labels_for("all") == [1] and odd.labels_for("none") == [2]
    assert odd.labels_for(None) == [0, 1, 2] and odd.labels_for(-1) == [NO_LABEL]
    assert odd.labels_for(2) == [2]


def test_a_folder_of_samples_keeps_its_micro_batch(tmp_path, monkeypatch):
    prior, tokenizer = open_pair(make_prior_folder(tmp_path), None, "cpu")
    out = tmp_path / "samples"
    generate(prior, 3, tokenizer=tokenizer, out=out, seed=1)
    record = json.loads((out / RECORD).read_text())
    assert "micro_batch" not in record, "a CPU's usual one is left out"
    (out / RECORD).write_text(json.dumps(record | {"micro_batch": 5}))
    seen, sample = [], prior.sample

    def spy(n, **options):
        seen.append(options["micro_batch"] if n else None)
        return sample(n, **options)

    monkeypatch.setattr(prior, "sample", spy)
    made = generate(prior, 7, tokenizer=tokenizer, out=out, seed=1)
    assert made.record.micro_batch == 5 and set(seen) == {5, None}
    assert json.loads((out / RECORD).read_text())["micro_batch"] == 5


def test_codes_of_samples_do_not_depend_on_the_micro_batch_but_for_rounding(flat):
    exact = flat.double()
    expected = exact.sample(9, seed=2)
    for size in (1, 4, 64):
        found = exact.sample(9, seed=2, micro_batch=size)
        # Equal logits but for the last bits: a code differs only where a uniform number is as near.
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_cpu_tries_no_micro_batches(flat):
    start = flat.prepare()
    assert fast_micro_batch(start, torch.device("cpu"), 1000, 9) == MICRO_BATCH
