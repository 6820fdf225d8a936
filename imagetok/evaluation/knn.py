"""A k-nearest-neighbour classifier on pixels, to check the classes of conditional samples."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def nearest_labels(
    queries: Float[Tensor, "N C H W"],
    references: Float[Tensor, "M C H W"],
    labels: Int[Tensor, " M"],
    k: int = 5,
) -> Int[Tensor, " N"]:
    """Classify every query by majority vote of its k nearest references (Euclidean distance).

    queries, references: images in [0, 1]. labels: >= 0, one per reference. k <= M.
    Ties go to the class with the nearer references. Returns one label per query, (N,).
    """
    distances = torch.cdist(queries.flatten(1).double(), references.flatten(1).double())
    near = distances.topk(k, largest=False)  # sorted, nearest first
    num_classes = int(labels.max()) + 1
    votes = torch.zeros(len(queries), num_classes, dtype=torch.float64)
    # Nearer references weigh slightly more, which only matters for ties.
    weights = 1 + 1e-3 * torch.linspace(1, 0, k, dtype=torch.float64)
    votes.scatter_add_(1, labels[near.indices], weights.expand(len(queries), k))
    return votes.argmax(dim=1)
