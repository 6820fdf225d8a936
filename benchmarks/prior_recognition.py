"""How many samples of priors on digits are recognised as the class that was asked for.

python benchmarks/prior_recognition.py PRIOR... [-n 1000]

The judge is a 5-nearest-neighbour classifier on the pixels of the real training digits.
"""

import argparse
import time

import torch

from imagetok.data import open_images, parse_spec
from imagetok.evaluation import nearest_labels
from imagetok.images import to_unit_range
from imagetok.tokenizers import Tokenizer
from prior import Prior


def main() -> None:
    """Print one row a prior; all must know the ten classes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("priors", nargs="+")
    parser.add_argument("-n", type=int, default=1000)
    arguments = parser.parse_args()
    print("| prior | parameters | recognised | seconds to draw |")
    print("|---|---|---|---|")
    for folder in arguments.priors:
        prior = Prior.from_pretrained(folder)
        tokenizer = Tokenizer.from_pretrained(f"{folder}/tokenizer")
        data = open_images(*parse_spec("digits:train"), tokenizer.image)
        real = data.read(range(len(data)))
        begun = time.perf_counter()
        codes = prior.sample(arguments.n, seed=0)
        seconds = time.perf_counter() - begun
        asked = torch.arange(arguments.n) % prior.config.num_classes
        # As an image file holds them.
        images = tokenizer.decode(codes).mul(255).round().div(255)
        found = nearest_labels(images, to_unit_range(real.images), real.labels)
        size = sum(p.numel() for p in prior.parameters())
        share = (found == asked).double().mean()
        print(f"| {prior.config.model.kind} | {size:,} | {share:.1%} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
