"""Measures of reconstructions, codes and samples, each with one definition."""

from imagetok.evaluation.knn import nearest_labels
from imagetok.evaluation.reconstruction import evaluate_reconstruction
from imagetok.evaluation.structural_similarity import ssim

__all__ = [
    "evaluate_reconstruction",
    "nearest_labels",
    "ssim",
]
