"""Several tokenizers on the same data, budget and seeds: trained, measured, one table."""

from imagetok.comparison.execution import Failure, run_comparison
from imagetok.comparison.plan import Cell, Plan, make_plan
from imagetok.comparison.results import Comparison
from imagetok.comparison.table import table_of

__all__ = ["Cell", "Comparison", "Failure", "Plan", "make_plan", "run_comparison", "table_of"]
