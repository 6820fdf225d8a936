"""The Inception score (Salimans et al. 2016)."""

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor


def inception_score(logits: Float[Tensor, "N C"], splits: int = 10) -> tuple[float, float]:
    """Return mean and standard deviation over `splits` parts of exp(E KL(p(y|x) || p(y))).

    Parts are contiguous, as in the paper's code, so images must not be sorted by class. The score
    lies between 1 (constant probabilities) and the number of classes.
    """
    log_p = logits.double().log_softmax(dim=1)
    count = min(splits, len(log_p))
    bounds = [i * len(log_p) // count for i in range(count + 1)]
    scores = []
    for part in (log_p[start:end] for start, end in pairwise(bounds)):
        log_mean = part.logsumexp(dim=0) - math.log(len(part))
        scores.append((part.exp() * (part - log_mean)).sum(dim=1).mean().exp())
    values = torch.stack(scores)
    return float(values.mean()), float(values.std(correction=0))
