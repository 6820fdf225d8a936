"""Writes the configs of the papers' tables (papers/), docs/configs.md, which lists them, and the
configs that compare methods (cifar10_methods.py).

python configs/make.py [--check]

A file holds every key. A cell whose config is that of an earlier one has none of its own. --check
writes nothing and names the files that are not what they would be.
"""

import sys
import textwrap
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import yaml
from cifar10_methods import methods
from papers.cell import DATASETS, Cell
from papers.edvae import edvae_paper
from papers.kaokore import kaokore_report
from papers.sqvae import sqvae_paper

from imagetok.config import apply_overrides, validate
from imagetok.training.config import TokenizerRun
from prior.config import PriorRun

ROOT = Path(__file__).parent.parent
MARK = "Written by configs/make.py: change it there."
DOWNLOADED = ("cifar10", "mnist", "fashion-mnist")
PAPERS = {
    "EdVAE paper": (
        edvae_paper,
        "Baykal, Kandemir and Unal, *EdVAE: Mitigating codebook collapse with evidential discrete "
        "variational autoencoders*. 150,000 steps of 128 images; the numbers are means over the "
        "seeds 42, 1773 and 1 (`--set seed=1773`). `edvae-paper/` holds what differs from the "
        "tables' settings; the middle of a sweep is the method's own file.",
    ),
    "SQ-VAE paper": (
        sqvae_paper,
        "Takida et al., *SQ-VAE: Variational Bayes on discrete representation with self-annealed "
        "stochastic quantization*. As many steps of 32 images as its 100 epochs (CelebA: 70), on "
        "all training images; the paper holds the last 10,000 of MNIST and CIFAR-10 out.",
    ),
    "Kaokore report": (
        kaokore_report,
        "Gupta, Nottingham and Seshadri, *Testing improvements for vector quantized variational "
        "autoencoders with novel data*. 100 epochs on version 1.2; the numbers are means over "
        "three runs.",
    ),
}
PAGE = """# Configs of the papers' tables

Each file says in its header what it reproduces, which number the paper reports, and what was
chosen where the paper leaves something open. They are written by `python configs/make.py` from the
description in `configs/papers/`, and a test compares. They are as long as the papers' runs, for a
GPU:

```sh
imagetok train configs/cifar10/edvae.yaml --set data.download=true --out runs/cifar10-edvae
```

Priors are trained on codes that are encoded first, as their headers say. The papers say little
about them: size, rate and keeping the best weights are our choice.

What has been run is in [results](results/). The other files in `configs/` take minutes on a
CPU. MSE is on [0, 1]. Perplexity is what the EdVAE paper's code prints, a mean over batches of 128
images. [data.md](data.md) says where CelebA, LSUN and Kaokore must lie.
"""


def config_of(cell: Cell) -> TokenizerRun | PriorRun:
    """The run of a cell, checked."""
    if cell.tokenizer:
        run = run_folder(cell.tokenizer)
        settings = (f"tokenizer={run}/tokenizer", f"data.source={run}/codes", *cell.settings)
        return validate(apply_overrides({"kind": "prior"}, [*settings]), PriorRun, cell.path)
    dataset = DATASETS[cell.dataset]
    settings = (
        f"data={{source: {dataset.source}}}",
        f"tokenizer.image={{{dataset.image}}}",
        *cell.settings,
        f"train.workers={dataset.workers}",
    )
    return validate(apply_overrides({"kind": "tokenizer"}, [*settings]), TokenizerRun, cell.path)


def run_folder(path: str) -> str:
    """Where the run of a config goes."""
    return f"runs/{path.replace('/', '-')}"


def cells_of(paper: str) -> Iterator[tuple[Cell, TokenizerRun | PriorRun]]:
    """Cells that differ from all before them, with their runs."""
    seen: list[TokenizerRun | PriorRun] = []
    for cell in PAPERS[paper][0]():
        config = config_of(cell)
        if config not in seen:
            seen.append(config)
            yield cell, config


def commands_of(cell: Cell) -> Iterator[str]:
    """How it is run."""
    download = "--set data.download=true " if cell.dataset in DOWNLOADED else ""
    if cell.tokenizer:  # its images are there: the tokenizer was trained on them
        run, download = run_folder(cell.tokenizer), ""
        data = f"{DATASETS[cell.dataset].source}:train"
        yield f"imagetok encode --tokenizer {run}/tokenizer --data {data} --shards {run}/codes"
    yield f"imagetok train configs/{cell.path}.yaml {download}--out {run_folder(cell.path)}"


def config_text(paper: str, cell: Cell, config: TokenizerRun | PriorRun) -> str:
    """The YAML file of a cell."""
    what = f"{cell.method} on {DATASETS[cell.dataset].name}"
    what += f", {cell.variant}" if cell.variant else ""
    expected = f"expected {cell.expected}" if cell.expected else "drawn without numbers"
    about = f"{what} ({paper}, {cell.source}): {expected}. {cell.choices}"
    wrapped = textwrap.wrap(about, 116, break_on_hyphens=False)
    header = [*wrapped, MARK, *(f"  {command}" for command in commands_of(cell))]
    tree = config.model_dump(mode="json")
    body = yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=118)
    return "".join(f"# {line}\n" for line in header) + body


def page_rows(paper: str) -> Iterator[str]:
    """A row a number; the points of a sweep without numbers share one."""

    def row_of(cell: Cell) -> tuple[str, ...]:
        name = DATASETS[cell.dataset].name
        return name, cell.method, cell.source, cell.expected or "a figure"

    for row, cells in groupby((cell for cell, _ in cells_of(paper)), row_of):
        links = [f"[{c.path.split('/')[-1]}](../configs/{c.path}.yaml)" for c in cells]
        yield f"| {' | '.join(row)} | {', '.join(links)} |\n"


def files() -> dict[Path, str]:
    """The text of every file that is written here."""
    wanted = {ROOT / "configs" / path: text for path, text in methods(MARK).items()}
    page = PAGE
    for paper, (_, about) in PAPERS.items():
        for cell, config in cells_of(paper):
            path = ROOT / "configs" / f"{cell.path}.yaml"
            assert path not in wanted, path
            wanted[path] = config_text(paper, cell, config)
        page += f"\n## {paper}\n\n{textwrap.fill(about, 100)}\n\n"
        page += "| data | method | where | expected | configs |\n|---|---|---|---|---|\n"
        page += "".join(page_rows(paper))
    return {**wanted, ROOT / "docs" / "configs.md": page}


def drift() -> list[str]:
    """Files that are not what they would be, and those that nothing writes any more."""
    wanted = files()
    written = {p for p in (ROOT / "configs").rglob("*.yaml") if MARK in p.read_text()}
    differ = {p for p, text in wanted.items() if not p.is_file() or p.read_text() != text}
    return sorted(str(p.relative_to(ROOT)) for p in differ | (written - wanted.keys()))


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit("\n".join(drift()) or None)
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
