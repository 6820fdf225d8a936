import math

import pytest
import torch

from imagetok import seeding
from imagetok.config import validate
from imagetok.data.base import ArrayImages
from imagetok.evaluation import evaluate_reconstruction, ssim
from imagetok.images import to_unit_range
from imagetok.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer

TREE = {
    "image": {"mode": "grey", "height": 4, "width": 4},
    "network": {"kind": "conv", "width": 8, "groups": 2, "blocks": 1, "init": "torch"}
    | {"residual_gain": 0.5},
    "quantizer": {"kind": "edvae", "num_codes": 16, "code_dim": 4},
}


def setting(count: int) -> tuple[Tokenizer, ArrayImages]:
    seeding.reseed_global(0)
    tokenizer = build_tokenizer(validate(TREE, TokenizerConfig, "test")).eval()
    with torch.no_grad():  # reach outside [0, 1], where clamping matters
        for parameter in tokenizer.parameters():
            parameter.mul_(2)
    pixels = torch.randint(256, (count, 1, 4, 4), dtype=torch.uint8)
    pixels[::3] //= 4
    return tokenizer, ArrayImages(pixels, name="noise", split="test", contract=tokenizer.image)


@pytest.mark.parametrize("count", [1, 128, 300])
def test_equals_a_direct_computation(count: int) -> None:
    tokenizer, dataset = setting(count)
    result = evaluate_reconstruction(tokenizer, dataset)
    squares, psnr, codes = [], [], []
    for batch in to_unit_range(dataset.images).split(128):
        x_hat = tokenizer.reconstruct(batch)
        squares += (x_hat - batch).double().square().mean(dim=(1, 2, 3)).tolist()
        mse = (x_hat.clamp(0, 1) - batch).double().square().mean(dim=(1, 2, 3)).tolist()
        psnr += [-10 * math.log10(value) for value in mse]
        codes.append(tokenizer.encode(batch)[0])
    assert x_hat.min() < 0 or x_hat.max() > 1
    every = torch.cat(codes)
    whole = every[: 128 * (count // 128)] if count >= 128 else every
    batch128, batch32 = (
        [perplexity(batch) for batch in images.split(size)]
        for images, size in ((whole, 128), (every, 32))
    )
    with torch.no_grad():
        logits = tokenizer.encoder(to_unit_range(dataset.images) - 0.5)
    alpha = logits.double().exp() + 1
    entropy = torch.distributions.Categorical(probs=alpha.movedim(1, -1)).entropy()
    assert result == {
        "num_images": count,
        "mse": pytest.approx(sum(squares) / count, rel=1e-12),
        "psnr_db": pytest.approx(sum(psnr) / count, rel=1e-12),
        "perplexity": pytest.approx(perplexity(every), rel=1e-12),
        "perplexity_batch128": pytest.approx(sum(batch128) / len(batch128), rel=1e-12),
        "perplexity_batch32": pytest.approx(sum(batch32) / len(batch32), rel=1e-12),
        "codes_used": len(every.unique()),
        "num_codes": 16,
        "entropy": pytest.approx(entropy.mean().item(), rel=1e-5),
        "entropy_std": pytest.approx(entropy.std().item(), rel=1e-4),
        "top_logit": pytest.approx(logits.amax(dim=1).mean().item(), rel=1e-5),
        "uncertainty": pytest.approx((16 / alpha.sum(dim=1)).mean().item(), rel=1e-5),
        "max_logit": pytest.approx(logits.max().item(), rel=1e-5),
    }
    assert count == 1 or result["codes_used"] > 2


def perplexity(codes: torch.Tensor) -> float:
    shares = [float((codes == k).sum()) / codes.numel() for k in codes.unique()]
    return math.exp(-sum(p * math.log(p) for p in shares))


def test_ssim_is_that_of_the_clamped_images() -> None:
    seeding.reseed_global(0)
    tree = {**TREE, "image": {"mode": "grey", "height": 12, "width": 12}}
    tokenizer = build_tokenizer(validate(tree, TokenizerConfig, "test")).eval()
    pixels = torch.randint(256, (130, 1, 12, 12), dtype=torch.uint8)
    dataset = ArrayImages(pixels, name="noise", split="test", contract=tokenizer.image)
    images = to_unit_range(pixels)
    x_hat = torch.cat([tokenizer.reconstruct(batch) for batch in images.split(128)]).clamp(0, 1)
    expected = ssim(x_hat.double(), images.double()).mean().item()
    assert evaluate_reconstruction(tokenizer, dataset)["ssim"] == pytest.approx(expected, rel=1e-9)


def test_it_changes_nothing_and_repeats() -> None:
    tokenizer, dataset = setting(20)
    before = tokenizer.fingerprint
    random_state = torch.random.get_rng_state()
    assert evaluate_reconstruction(tokenizer, dataset) == evaluate_reconstruction(
        tokenizer, dataset
    )
    assert tokenizer.fingerprint == before
    assert torch.equal(random_state, torch.random.get_rng_state())


def test_it_stops_where_it_is_asked_to() -> None:
    tokenizer, dataset = setting(300)
    calls = []

    def check() -> None:
        calls.append(len(calls))
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_reconstruction(tokenizer, dataset, check)
    assert calls == [0, 1]
