"""Times of optimizer steps that were measured on a GPU, for estimates on machines without one.

`docs/generators/gpu.py` writes the table, gpu_times.json, from the figures of `benchmarks/gpu.py`.
Its entries hold the model and batch size that they belong to.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagetok.results import duration_text
from imagetok.training.config import TokenizerRun

TABLE = Path(__file__).with_name("gpu_times.json")


def times_on_gpu(config: TokenizerRun, table: Path = TABLE) -> Mapping[str, str]:
    """Return what a run takes on the GPU of the table, by the name of the GPU.

    Empty if steps of this tokenizer with this batch size were not measured.
    """
    measured = json.loads(table.read_bytes())
    if config.objective.perceptual is not None or config.objective.adversarial is not None:
        return {}  # they were measured without
    if config.trained != "all":
        return {}
    asked = measured_model(config)
    for entry in measured["steps"]:
        if entry["model"] == asked:
            times = (
                f"{duration_text(config.train.steps * ms / 1e3)} with {mode} ({ms:.3g} ms a step)"
                for mode, ms in entry["ms"].items()
            )
            return {f"on {measured['gpu']}, about": ", ".join(times)}
    return {}


def measured_model(config: TokenizerRun) -> dict[str, Any]:
    """Return what the time of a step depends on, besides the arithmetic, as JSON."""
    tokenizer = config.tokenizer.model_dump(mode="json")
    return {"tokenizer": tokenizer, "batch_size": config.train.batch_size}
