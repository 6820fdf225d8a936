"""What an encoder's certainty did in finished tokenizer runs: a table and curves over the steps.

python benchmarks/codebook_runs.py OUT METHOD=RUN,RUN,... [METHOD=RUN,...]...
Writes OUT.json, OUT.md (tables) and OUT-*.svg from the runs' config.yaml, metrics.jsonl and
timing.jsonl: each value is of the last evaluation, mean and standard deviation over the runs. The
rate is the median over a run, of whatever else the machine did then, too. To train and compare
methods, use `imagetok compare`; this is for runs that are there, their logits and their entropy.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from imagetok.comparison.results import evaluations
from imagetok.comparison.table import markdown_row, rule, spread
from imagetok.config import read_yaml
from imagetok.reporting.figures import curves
from imagetok.training.metrics_log import read_json_lines

COLUMNS = {
    "MSE x 10^3": ("mse", 1e3, ".2f"),
    "PSNR, dB": ("psnr_db", 1, ".2f"),
    "perplexity, batches of 128": ("perplexity_batch128", 1, ".1f"),
    "perplexity, test set": ("perplexity", 1, ".1f"),
    "codes used": ("codes_used", 1, ".0f"),
    "max logit": ("max_logit", 1, ".1f"),
    "entropy, nats": ("entropy", 1, ".2f"),
}
CURVES = ("mse", "perplexity", "codes_used", "max_logit", "entropy")


def main(out: Path, methods: dict[str, list[Path]]) -> None:
    """Write table and curves of the runs of each method."""
    runs = {name: [_read(folder) for folder in folders] for name, folders in methods.items()}
    out.with_suffix(".json").write_text(json.dumps(runs, indent=1) + "\n")
    lines = [_final(runs), "", _over_steps(runs), ""]
    out.with_suffix(".md").write_text("\n".join(lines))
    for measure in CURVES:
        series = {
            f"{name}, seed {run['seed']}" if len(group) > 1 else name: (
                [point["step"] for point in run["test"] if measure in point],
                [point[measure] for point in run["test"] if measure in point],
            )
            for name, group in runs.items()
            for run in group
            if measure in run["test"][-1]
        }
        svg = curves(series, "step", f"test {measure}", log=measure == "mse")
        out.with_name(f"{out.name}-{measure}.svg").write_bytes(svg)


def _read(folder: Path) -> dict[str, Any]:
    config = read_yaml(folder / "config.yaml")
    rates = [r["images_per_second"] for r in read_json_lines(folder / "timing.jsonl")]
    return {
        "seed": config["seed"],
        "config": {key: config[key] for key in ("tokenizer", "objective", "train")},
        "images_per_second": statistics.median(rates),
        "test": evaluations(folder, config["train"]["steps"]),
    }


def _final(runs: dict[str, list[dict[str, Any]]]) -> str:
    rows = [markdown_row(["method", "seeds", *COLUMNS, "images/s"]), rule(len(COLUMNS) + 3)]
    for name, group in runs.items():
        last = [run["test"][-1] for run in group]
        cells = [
            _spread([v[key] * scale for v in last if key in v], form)
            for key, scale, form in COLUMNS.values()
        ]
        seeds = ", ".join(str(run["seed"]) for run in group)
        rate = _spread([run["images_per_second"] for run in group], ".0f")
        rows.append(markdown_row([name, seeds, *cells, rate]))
    return "\n".join(rows)


def _over_steps(runs: dict[str, list[dict[str, Any]]]) -> str:
    """MSE x 10^3 / perplexity / codes used at every evaluation, means over the seeds."""
    rows = [markdown_row(["steps", *runs]), rule(len(runs) + 1)]
    for step in [point["step"] for point in next(iter(runs.values()))[0]["test"]]:
        cells = []
        for group in runs.values():
            points = [p for run in group for p in run["test"] if p["step"] == step]
            mse, perplexity, used = (
                statistics.mean(p[key] for p in points) if points else float("nan")
                for key in ("mse", "perplexity", "codes_used")
            )
            cells.append(f"{mse * 1e3:.2f} / {perplexity:.0f} / {used:.0f}")
        rows.append(markdown_row([f"{step:,}", *cells]))
    return "\n".join(rows)


def _spread(values: list[float], form: str) -> str:
    if not values:
        return ""
    std = statistics.stdev(values) if len(values) > 1 else None
    return spread(statistics.fmean(values), std, form)


if __name__ == "__main__":
    named = (argument.split("=", 1) for argument in sys.argv[2:])
    main(Path(sys.argv[1]), {name: [Path(p) for p in runs.split(",")] for name, runs in named})
