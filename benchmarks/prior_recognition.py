"""How many samples of priors on digits are recognised as the class that was asked for.

imagetok train configs/digits/gpt.yaml --out runs/digits-gpt     (pixelsnail.yaml, pixelcnn.yaml)
python benchmarks/prior_recognition.py runs/digits-*/prior [-n 1000]

Beside it: bits per code of the 180 held-out digits, and what the frequency of each code, or of each
pair of neighbours, in the training digits costs. The judge is a 5-nearest-neighbour classifier on
the pixels of the real training digits.
"""

import argparse
import math
import time

import torch

from imagetok.data import ImageBatch, open_images, parse_spec
from imagetok.evaluation import nearest_labels
from imagetok.images import to_unit_range
from imagetok.tokenizers import Tokenizer
from prior import Prior
from prior.ngram_baselines import ngram_baselines


def held_out_bits(
    prior: Prior, tokenizer: Tokenizer, training: ImageBatch, held_out: ImageBatch
) -> tuple[float, float, float]:
    """Bits per code of the prior, at order 0 and at order 1."""
    parts = (to_unit_range(part.images) for part in (training, held_out))
    before, codes = (tokenizer.encode(part) for part in parts)
    nats = -prior.log_prob(codes, held_out.labels).double().mean() / prior.config.length
    (level,) = ngram_baselines(prior.config.num_codes, [before], [codes])
    return float(nats) / math.log(2), level.unigram, level.bigram


def main() -> None:
    """Print one row a prior; all must know the ten classes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("priors", nargs="+")
    parser.add_argument("-n", type=int, default=1000)
    arguments = parser.parse_args()
    print(
        "| prior | parameters | held-out bits per code | order 0 | order 1 | recognised "
        "| seconds to draw |"
    )
    print("|---|---|---|---|---|---|---|")
    for folder in arguments.priors:
        prior = Prior.from_pretrained(folder)
        tokenizer = Tokenizer.from_pretrained(f"{folder}/tokenizer")
        splits = (
            open_images(*parse_spec(f"digits:{split}"), tokenizer.image)
            for split in ("train", "test")
        )
        real, held_out = (data.read(range(len(data))) for data in splits)
        bits = held_out_bits(prior, tokenizer, real, held_out)
        begun = time.perf_counter()
        codes = prior.sample(arguments.n, seed=0)
        seconds = time.perf_counter() - begun
        asked = torch.arange(arguments.n) % prior.config.num_classes
        # As an image file holds them.
        images = tokenizer.decode(codes).mul(255).round().div(255)
        found = nearest_labels(images, to_unit_range(real.images), real.labels)
        size = sum(p.numel() for p in prior.parameters())
        share = (found == asked).double().mean()
        print(
            f"| {prior.config.model.kind} | {size:,} | {' | '.join(f'{b:.2f}' for b in bits)} "
            f"| {share:.1%} | {seconds:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
