"""`prior.report`: an HTML report of runs of tokenizers and priors, samples and measures."""

from collections.abc import Sequence
from pathlib import Path

import torch

from imagetok.analysis.report import Report, make_report, paths_of, sections_of
from imagetok.io.output_paths import output_file
from imagetok.processes import choose_device
from imagetok.progress import progress_shown
from imagetok.reporting import ReportSection
from prior.report_folders import PriorRunFolder, PriorSources, SampleFolder, open_all
from prior.report_sections import prior_sections, samples_section


def report(
    runs: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    num_samples: int = 8,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Report:
    """Write a self-contained HTML report of one run, or of several side by side.

    runs: run folders of tokenizers or priors, folders of samples written by `imagetok sample`, and
    JSON files written by `imagetok.evaluate`. out: the HTML file to write; it opens offline.
    num_samples: samples drawn per class from every prior (4 * num_samples from a prior without
    classes); 0: no samples and no completions.

    Before anything is computed, raises InputError for a path that is none of these or is damaged,
    and ConfigError for a path that occurs twice.

    Example: `prior.report(["runs/tokenizer", "runs/gpt"], "report.html").contents`
    """
    paths = paths_of(runs)
    output_file(out)
    opened = open_all(paths, choose_device(device))
    with progress_shown(progress):
        first = first_sections(opened, num_samples)
        names = [folder.name for folder in opened.samples]
        return make_report(paths, Path(out), opened.sources, first, names)


def sections_of_all(opened: PriorSources, num_samples: int) -> list[ReportSection]:
    """Return all sections in order, except summary and commands."""
    return sections_of(opened.sources, first_sections(opened, num_samples))


def first_sections(opened: PriorSources, num_samples: int) -> list[ReportSection]:
    """Return the sections of samples and completions of priors, then of other sample folders."""
    priors = [run for run in opened.sources.runs if isinstance(run, PriorRunFolder)]
    sections = []
    shown: list[SampleFolder] = []
    for run in priors:
        drawn = [folder for folder in opened.samples if folder.record.prior == run.fingerprint]
        shown += drawn
        name = f" of {run.name}" if len(priors) > 1 else ""
        sections += prior_sections(run, drawn, num_samples, name)
    others = [folder for folder in opened.samples if folder not in shown]
    return sections + [samples_section(folder, f" in folder {folder.name}") for folder in others]
