"""t-SNE maps and k-NN accuracy of vectors: do they separate the classes?"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from imagetok.errors import InputError
from imagetok.optional import require

COMPONENTS = 50
"""Number of principal components kept before t-SNE, as is usual."""


def principal(vectors: Float[Tensor, "N F"], count: int = COMPONENTS) -> Float[Tensor, "N P"]:
    """Project centred vectors on their first `count` principal components, or on all if fewer."""
    centred = vectors.double() - vectors.double().mean(dim=0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    return (u * s)[:, :count]


def tsne(vectors: Float[Tensor, "N F"]) -> Float[np.ndarray, "N 2"]:
    """Compute a two-dimensional t-SNE map (van der Maaten & Hinton 2008); deterministic.

    Uses scikit-learn, with perplexity 30 (less for few vectors), initialised with the first
    principal components. If all vectors are equal, as for a collapsed codebook, all points are 0.

    Raises ResourceError without scikit-learn, InputError for fewer than 4 vectors.
    """
    manifold = require("sklearn.manifold", extra="eval", purpose="t-SNE")
    if len(vectors) < 4:
        raise InputError(f"t-SNE: expected at least 4 images, found {len(vectors)}")
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    points = principal(vectors).numpy()
    if np.ptp(points[:, 0]) <= 1e-12 * max(1.0, float(vectors.abs().max())):
        return np.zeros((len(vectors), 2))  # all are equal; scikit-learn would divide by 0
    return manifold.TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(points)


def neighbour_accuracy(
    vectors: Float[Tensor, "N F"], labels: Int[Tensor, " N"], k: int = 5
) -> float:
    """Return the leave-one-out accuracy of a k-nearest-neighbour classifier, in [0, 1].

    Euclidean distance and majority vote; ties go to the smallest label.
    Raises InputError for k or fewer vectors.
    """
    if len(vectors) <= k:
        raise InputError(f"{k} nearest neighbours: expected more vectors, found {len(vectors)}")
    distances = torch.cdist(vectors.double(), vectors.double()).fill_diagonal_(torch.inf)
    classes, places = labels.unique(return_inverse=True)
    near = places[distances.topk(k, largest=False).indices]
    votes = torch.zeros(len(vectors), len(classes)).scatter_add_(1, near, torch.ones(near.shape))
    return float((votes.argmax(dim=1) == places).double().mean())
