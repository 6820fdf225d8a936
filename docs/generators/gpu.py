"""Write docs/gpu.md and the package's table of times from docs/results/gpu.json.

That is the file of `benchmarks/gpu.py`. The table is what `imagetok train --dry-run` shows.

python docs/generators/gpu.py
"""

import json
from pathlib import Path
from typing import Any

from imagetok import configs
from imagetok.config import validate
from imagetok.training.config import TokenizerRun
from imagetok.training.gpu_times import TABLE, measured_model

ROOT = Path(__file__).parent.parent.parent
FIGURES = ROOT / "docs" / "results" / "gpu.json"
PAGE = ROOT / "docs" / "gpu.md"
HEAD = """# On a GPU

```sh
python benchmarks/gpu.py --minutes 9 --data data
```

runs the tests that need a GPU, measures optimizer steps, encoding and sampling, and trains the
EdVAE paper's CIFAR-10 tokenizer for the rest of the time. Run again, it continues. It needs no
network, and writes `docs/results/gpu.json`, from which `python docs/generators/gpu.py` makes this
page.
"""
NONE = """
**No GPU has been at hand yet**, so there are no figures here, and nothing of imagetok is claimed to
be fast, or to have run, on one. What is checked on CPUs: no training step of any config waits for a
GPU, on fake tensors of one, except where an accepted wait is listed with its reason
(`tests/test_device_waits.py`), or has an operation that torch knows to vary from run to run on one;
the networks and quantizers of every config compile as whole graphs; what `train.cuda_graphs`
records of a step is the same at each step, with any config (`tests/test_recorded_steps.py`); and
the script above runs from end to end with `--device cpu --small`.
"""


def page(found: dict[str, Any] | None) -> str:
    """The page of the figures; of none, one that says so."""
    if found is None:
        return HEAD + NONE
    machine, results = found["machine"], found["results"]
    parts = [HEAD, f"\n{machine['gpu']}, torch {machine['torch']}, `{found['command']}`.\n"]
    parts.append(f"\nTests that need a GPU: {results['tests'].get('closing', 'not run')}.\n")
    peaks = results.get("peak", {})
    if peaks and "failed" not in peaks:
        shown = ", ".join(f"{name} {value:,.0f}" for name, value in peaks.items())
        parts.append(f"\nMatrix products of 8,192 x 8,192, TFLOP/s: {shown}.\n")
    parts.append(_steps(results, peaks))
    parts.append(_rows(results, "encode", "Images encoded a second", "{:,.0f}"))
    parts.append(_rows(results, "sample", "Seconds to sample", "{:,.3g}"))
    if training := results.get("training"):
        measures = ", ".join(
            f"{k} {v:.4g}" for k, v in training["measures"].items() if k != "split"
        )
        parts.append(
            f"\n## Training\n\n`{training['config']}`: step {training['step']:,} of "
            f"{training['steps']:,}; last evaluation: {measures}.\n"
        )
    return "".join(parts)


def _steps(results: dict[str, Any], peaks: dict[str, float]) -> str:
    rows = [
        "\n## Optimizer steps\n",
        "| config | arithmetic | ms | images/s | MiB | hours | of the peak |",
    ]
    rows.append("|---|---|---|---|---|---|---|")
    for key, found in results.items():
        if not key.startswith("steps, "):
            continue
        name, mode = key.removeprefix("steps, ").split(", ", 1)
        if "failed" in found:
            rows.append(f"| {name} | {mode} | {found['failed']} | | | | |")
            continue
        share = found["tflop"] / (found["ms"] / 1e3) / peaks[mode.split(",")[0]] if peaks else 0
        rows.append(
            f"| {name} | {mode} | {found['ms']:.2f} | {found['images_per_second']:,.0f} | "
            f"{found['memory_mb']:,.0f} | {found['hours']:.2f} | {share:.0%} |"
        )
    return "\n".join(rows) + "\n"


def _rows(results: dict[str, Any], stage: str, title: str, form: str) -> str:
    rows = [f"\n## {title}\n"]
    for key, found in results.items():
        if key.startswith(f"{stage}, "):
            shown = ", ".join(
                f"{name} {form.format(v) if isinstance(v, float) else v}"
                for name, v in found.items()
            )
            rows.append(f"- {key.removeprefix(f'{stage}, ')}: {shown}")
    return "\n".join(rows) + "\n"


def times(found: dict[str, Any] | None) -> dict[str, Any]:
    """The table of `imagetok.training.gpu_times`; of no figures, an empty one."""
    if found is None:
        return {"gpu": None, "steps": []}
    of_configs: dict[str, dict[str, float]] = {}
    for key, result in found["results"].items():
        if key.startswith("steps, ") and "failed" not in result:
            name, mode = key.removeprefix("steps, ").split(", ", 1)
            of_configs.setdefault(name, {})[mode] = result["ms"]
    runs = {name: validate(configs(name).tree, TokenizerRun, name) for name in of_configs}
    steps = [{"model": measured_model(runs[name]), "ms": ms} for name, ms in of_configs.items()]
    return {"gpu": found["machine"]["gpu"], "steps": steps}


if __name__ == "__main__":
    figures = json.loads(FIGURES.read_text("utf-8")) if FIGURES.is_file() else None
    PAGE.write_text(page(figures), "utf-8")
    TABLE.write_text(json.dumps(times(figures)) + "\n", "utf-8")
