"""Comparison of tokenizers trained with the same data, budget and seeds."""

from imagetok.comparison.plan import ComparisonPlan, Trial, make_plan
from imagetok.comparison.results import Comparison
from imagetok.comparison.runner import Failure, run_comparison
from imagetok.comparison.table import table_of

__all__ = [
    "Comparison",
    "ComparisonPlan",
    "Failure",
    "Trial",
    "make_plan",
    "run_comparison",
    "table_of",
]
