"""The Inception score (Salimans et al. 2016)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def inception_score(logits: Float[Tensor, "N C"], splits: int = 10) -> tuple[float, float]:
    """Return mean and standard deviation over `splits` parts of exp(E KL(p(y|x) || p(y))).

    A part is every `splits`-th image, so that each part has all classes even if images are sorted
    by class. The score lies between 1 (constant probabilities) and the number of classes.
    """
    log_p = logits.double().log_softmax(dim=1)
    scores = []
    for part in (log_p[i::splits] for i in range(min(splits, len(log_p)))):
        log_mean = part.logsumexp(dim=0) - math.log(len(part))
        scores.append((part.exp() * (part - log_mean)).sum(dim=1).mean().exp())
    values = torch.stack(scores)
    return float(values.mean()), float(values.std(correction=0))
