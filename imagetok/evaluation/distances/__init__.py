"""Distances between two sets of features in float64: FID, KID, precision and recall."""

from imagetok.evaluation.distances.classifier_score import inception_score
from imagetok.evaluation.distances.frechet import FeatureMoments, frechet_distance
from imagetok.evaluation.distances.kernel import kernel_distance
from imagetok.evaluation.distances.precision_and_recall import precision_recall

__all__ = [
    "FeatureMoments",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "precision_recall",
]
