"""A k-nearest-neighbour classifier on pixels: an independent judge of class-conditional samples."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def nearest_labels(
    queries: Float[Tensor, "N C H W"],
    references: Float[Tensor, "M C H W"],
    labels: Int[Tensor, " M"],
    k: int = 5,
) -> Int[Tensor, " N"]:
    """The label of every query by majority among its k nearest references in Euclidean distance.

    Ties go to the class with the nearer members. images in [0, 1], labels >= 0; k <= M.
    """
    distances = torch.cdist(queries.flatten(1).double(), references.flatten(1).double())
    near = distances.topk(k, largest=False)  # sorted, nearest first
    num_classes = int(labels.max()) + 1
    votes = torch.zeros(len(queries), num_classes, dtype=torch.float64)
    # Nearer members weigh a little more, which only decides between equal counts.
    weights = 1 + 1e-3 * torch.linspace(1, 0, k, dtype=torch.float64)
    votes.scatter_add_(1, labels[near.indices], weights.expand(len(queries), k))
    return votes.argmax(dim=1)
