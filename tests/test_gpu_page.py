"""docs/gpu.md and the table of times are made from the figures, and say so where there are none."""

import json
import runpy
from pathlib import Path

from imagetok import configs
from imagetok.config import apply_overrides, validate
from imagetok.training.config import TokenizerRun
from imagetok.training.gpu_times import TABLE, times_on_gpu

ROOT = Path(__file__).parent.parent
GENERATOR = runpy.run_path(str(ROOT / "docs" / "generators" / "gpu.py"))
FIGURES = ROOT / "docs" / "results" / "gpu.json"
FOUND = {
    "machine": {"gpu": "A card", "torch": "2.14"},
    "command": "python benchmarks/gpu.py --minutes 9",
    "results": {
        "tests": {"closing": "20 passed"},
        "peak": {"fp32": 50.0, "bf16": 800.0},
        "steps, cifar10/edvae, bf16, compiled": {
            "ms": 4.0, "images_per_second": 32000.0, "memory_mb": 900.0, "hours": 0.17,
            "tflop": 0.8,
        },
        "steps, cifar10/edvae, fp32": {"failed": "not done after 90 s"},
        "encode, cifar10/edvae": {"float32": 50000.0},
        "sample, gpt": {"parameters": 21000000, "one": 0.9, "sixty_four": 1.25},
    },
}  # fmt: skip


def test_the_page_is_that_of_the_figures():
    found = json.loads(FIGURES.read_text()) if FIGURES.is_file() else None
    written = (ROOT / "docs" / "gpu.md").read_text()
    assert written == GENERATOR["page"](found), "run: python docs/generators/gpu.py"


def test_the_table_is_that_of_the_figures():
    found = json.loads(FIGURES.read_text()) if FIGURES.is_file() else None
    made = GENERATOR["times"](found)
    assert json.loads(TABLE.read_text()) == made, "run: python docs/generators/gpu.py"


def test_a_run_like_a_measured_one_is_estimated_by_the_table(tmp_path):
    table = tmp_path / "times.json"
    table.write_text(json.dumps(GENERATOR["times"](FOUND)))

    def times(**overrides: object) -> dict[str, str]:
        tree = apply_overrides(configs("cifar10/edvae").tree, overrides)
        return dict(times_on_gpu(validate(tree, TokenizerRun, "test"), table))

    # 100,000 steps of 4 ms; the failed stage has no time.
    expected = {"on A card, about": "6 min 40 s with bf16, compiled (4 ms a step)"}
    assert times(**{"train.steps": 100_000, "seed": 3}) == expected
    assert times(**{"train.batch_size": 64}) == times(**{"tokenizer.quantizer.code_dim": 8}) == {}
    assert times_on_gpu(validate(configs("digits/fsq").tree, TokenizerRun, "test"), table) == {}


def test_without_figures_the_page_says_so():
    assert "No GPU has been at hand yet" in GENERATOR["page"](None)


def test_figures_and_failures_are_shown():
    page = GENERATOR["page"](FOUND)
    assert "A card, torch 2.14" in page and "20 passed" in page
    # 0.8 TFLOP in 4 ms are 200 TFLOP/s, a quarter of 800.
    row = "| cifar10/edvae | bf16, compiled | 4.00 | 32,000 | 900 | 0.17 | 25% |"
    assert row in page
    assert "| cifar10/edvae | fp32 | not done after 90 s | | | | |" in page
    assert "- gpt: parameters 21000000, one 0.9, sixty_four 1.25" in page
