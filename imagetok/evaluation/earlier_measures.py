"""Measures of earlier versions whose meaning has changed since, under names of their own."""

from collections.abc import Mapping
from typing import TypeVar

from imagetok.evaluation.batches import EVALUATION_BATCH

T = TypeVar("T")

BATCH_PERPLEXITY, BATCH_PERPLEXITY_ALL = "perplexity_batch128", "perplexity_batch128_all"


def renamed(measures: Mapping[str, T]) -> dict[str, T]:
    """Return measures as read from a file, where names that changed their meaning are replaced.

    Up to imagetok 0.2, `perplexity_batch128` counted a smaller last batch like the others. If there
    was one, the measure is called `perplexity_batch128_all`, so that it stands beside no other. A
    file has this version's meaning if it also holds `perplexity_batch32`.
    """
    is_current = any(name.startswith("perplexity_batch32") for name in measures)
    count = measures.get("num_images")
    has_no_rest = isinstance(count, int) and (
        count <= EVALUATION_BATCH or count % EVALUATION_BATCH == 0
    )
    if is_current or has_no_rest:
        return dict(measures)
    return {
        name.replace(BATCH_PERPLEXITY, BATCH_PERPLEXITY_ALL)
        if name.startswith(BATCH_PERPLEXITY) and not name.startswith(BATCH_PERPLEXITY_ALL)
        else name: value
        for name, value in measures.items()
    }
