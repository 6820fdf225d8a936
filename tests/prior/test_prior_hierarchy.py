"""Two levels: what the bottom sees of the top, that nothing is shared, from codes to images."""

import itertools

import pytest
import torch
from representative import slow_but
from torch.testing import assert_close

from imagetok import seeding
from imagetok.codes.encode import encode_dataset, make_plan
from imagetok.config import validate
from imagetok.data import ArrayImages
from imagetok.errors import ConfigError
from imagetok.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer
from prior import Prior
from prior.base import NO_LABEL, negative_log_likelihood
from prior.build import build_prior
from prior.config import PriorConfig, PriorRun
from prior.hierarchy import HierarchicalPrior
from prior.training import train_prior

SNAIL = {"kind": "pixelsnail", "width": 8, "blocks": 1, "units": 1, "kernel_size": 3, "heads": 2}
CNN = {"kind": "pixelcnn", "width": 8, "layers": 2, "head": 8}
GPT = {"kind": "gpt", "layers": 1, "heads": 2, "width": 16}
NAMES = ["hierarchy", "hierarchy-uneven", "hierarchy-pixelcnn", "hierarchy-gpt"]


def config(grids=((1, 1), (2, 2)), num_codes=(3, 2), num_classes=0, **model) -> PriorConfig:
    tree = {
        "tokenizer_fingerprint": "f" * 64,
        "num_codes": num_codes,
        "grids": grids,
        "num_classes": num_classes,
        "model": {
            "kind": "hierarchy", "top": SNAIL, "bottom": SNAIL, "context": {"width": 4}, **model,
        },
    }  # fmt: skip
    return validate(tree, PriorConfig, "test")


@pytest.mark.parametrize("bottom", [SNAIL, CNN, GPT], ids=lambda model: model["kind"])
def test_the_probabilities_of_every_image_sum_to_one(bottom):
    torch.manual_seed(0)
    prior = build_prior(config(bottom=bottom, num_classes=2)).double().eval()
    every = torch.tensor(
        [(top, *rest) for top in range(3) for rest in itertools.product(range(2), repeat=4)]
    )
    codes = every[:, :1].view(-1, 1, 1), every[:, 1:].reshape(-1, 2, 2)
    for label in (0, 1, NO_LABEL):
        nll = negative_log_likelihood(prior(codes, torch.full((48,), label)), codes)
        assert_close((-nll.sum(1)).exp().sum().item(), 1.0, atol=1e-6, rtol=0)


@pytest.mark.parametrize("prior", NAMES, indirect=True)
def test_log_prob_is_the_tops_and_the_bottoms_given_the_top(prior, random_codes):
    codes, labels = random_codes(prior, 3), torch.full((3,), NO_LABEL)
    top, bottom = codes
    given_top = prior.bottom((bottom,), labels, prior.context_of(top))
    expected = prior.top.log_prob((top,), labels)
    expected = expected - negative_log_likelihood(given_top, (bottom,)).sum(1)
    assert_close(prior.log_prob(codes, labels), expected)


@pytest.mark.parametrize("prior", NAMES, indirect=True)
def test_each_bottom_position_sees_the_tops_features_where_it_lies(prior, random_codes):
    (top, _), (above, grid) = random_codes(prior, 2), prior.config.grids
    context, features = prior.context_of(top), prior.context(top)
    for i, j in itertools.product(*map(range, grid)):
        row, column = (i + 0.5) * above[0] / grid[0], (j + 0.5) * above[1] / grid[1]
        assert torch.equal(context[:, :, i, j], features[:, :, int(row), int(column)])


@pytest.mark.parametrize("name", NAMES)
def test_the_levels_share_no_weight(name, random_codes, named):
    prior = named(name).requires_grad_(True)
    codes, labels = random_codes(prior, 2), torch.full((2,), NO_LABEL)
    touched = []
    for level, logits in enumerate(prior(codes, labels)):
        prior.zero_grad(set_to_none=True)
        negative_log_likelihood((logits,), (codes[level],)).sum().backward()
        touched.append({n for n, p in prior.named_parameters() if p.grad is not None})
    assert touched[0] == {n for n, _ in prior.named_parameters() if n.startswith("top.")}
    assert touched[1] == {n for n, _ in prior.named_parameters() if not n.startswith("top.")}


@pytest.mark.parametrize("name", slow_but(["hierarchy", "hierarchy-gpt"], NAMES))
def test_drawn_bottoms_have_the_frequencies_of_their_top(name, named):
    """First codes of the bottom over many images of one top, against the bottom's own."""
    prior = named(name)
    top, bottom = prior.sample(600, label=NO_LABEL, seed=2)
    maps, counts = top.flatten(1).unique(dim=0, return_counts=True)
    most = maps[counts.argmax()]
    chosen = (top.flatten(1) == most).all(1)
    height, width = prior.config.grids[0]
    with torch.no_grad():
        context = prior.context_of(most.view(1, height, width))
        start = prior.bottom.prepare()(torch.tensor([NO_LABEL]), context)
        expected = start.next_logits(None)[0].softmax(0)
    n = int(chosen.sum())
    found = torch.bincount(bottom[chosen, 0, 0], minlength=len(expected)) / n
    assert_close(found, expected, atol=4 * (0.25 / n) ** 0.5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grids": ((2, 2),), "num_codes": (3,)}, "expected codes of two levels, found 1"),
        ({"grids": ((1, 1), (2, 2), (4, 4)), "num_codes": (3, 3, 3)}, "two levels, found 3"),
        ({"num_codes": (3,)}, "1 level of codes, but 2 grids"),
        ({"bottom": {"kind": "hierarchy"}}, "bottom"),
        ({"top": {"kind": "hierarchy"}}, "top"),
    ],
)
def test_what_is_no_hierarchy_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)


@pytest.fixture(scope="module")
def two_level_codes(tmp_path_factory):
    """A tokenizer with codes of 2 x 2 above 4 x 4, and the codes of random images."""
    folder = tmp_path_factory.mktemp("two-level")
    tree = {
        "image": {"mode": "grey", "height": 16, "width": 16},
        "network": {"kind": "vqvae2", "width": 8, "residual_width": 4, "residual_layers": 1},
        "quantizers": [
            {"kind": "vqvae-ema", "num_codes": 5, "code_dim": 4},
            {"kind": "vqvae-ema", "num_codes": 7, "code_dim": 4},
        ],
    }
    seeding.reseed_global(0, "test")
    tokenizer = build_tokenizer(validate(tree, TokenizerConfig, "test")).eval()
    tokenizer.save_pretrained(folder / "tokenizer")
    pixels = torch.randint(0, 256, (40, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    images = ArrayImages(
        pixels.to(torch.uint8), torch.arange(40) % 2, name="random", split="train",
        contract=tokenizer.image, class_names=("a", "b"),
    )  # fmt: skip
    plan = make_plan(tokenizer, images, source="random:train", name="tiny", samples_per_shard=16)
    encode_dataset(tokenizer, images, folder / "codes", plan)
    return folder


@pytest.mark.parametrize(
    "model",
    [
        pytest.param({"kind": "hierarchy", "top": SNAIL, "bottom": SNAIL}, marks=pytest.mark.slow),
        {"kind": "hierarchy", "top": CNN, "bottom": GPT},
        pytest.param(GPT, marks=pytest.mark.slow),
    ],
    ids=["pixelsnail", "pixelcnn-gpt", "gpt"],
)
def test_from_codes_of_two_levels_to_images(model, two_level_codes, tmp_path):
    """One run, one artifact; resumed, the same."""

    def train(steps: int, name: str, resume: bool = False) -> dict[str, float | int]:
        tree = {
            "kind": "prior",
            "data": {"source": str(two_level_codes / "codes"), "held_out": 0.2},
            "tokenizer": str(two_level_codes / "tokenizer"),
            "model": model,
            "train": {
                "steps": steps, "batch_size": 8, "trackers": [],
                "learning_rate": {"kind": "constant", "value": 1.0e-2},
            },
        }  # fmt: skip
        run = validate(tree, PriorRun, "test")
        return train_prior(run, tmp_path / name, resume=resume, device="cpu")

    measures = train(6, "whole")
    train(2, "stopped")
    assert train(6, "stopped", resume=True) == measures
    weights = [tmp_path / n / "prior" / "model.safetensors" for n in ("whole", "stopped")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    prior = Prior.from_pretrained(tmp_path / "whole" / "prior")
    assert isinstance(prior, HierarchicalPrior) == (model is not GPT)
    codes = prior.sample(3, label="b")
    assert [tuple(level.shape) for level in codes] == [(3, 2, 2), (3, 4, 4)]
    tokenizer = Tokenizer.from_pretrained(tmp_path / "whole" / "prior" / "tokenizer")
    assert tokenizer.decode(codes).shape == (3, 1, 16, 16)
