"""A report of runs of tokenizers and priors, of samples and of measures: one HTML file."""

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
    """Write one self-contained HTML file about a run, or about several side by side.

    runs: run folders of tokenizers or priors, folders of samples as `imagetok sample` writes them,
    and JSON files that `imagetok.evaluate` wrote. out: the HTML file; it opens from disk, without
    a network. num_samples: images drawn of each class from every prior, or four times as many of a
    prior without classes; 0: draw and complete none.

    Raises InputError for a path that is none of these, or damaged, and ConfigError for a path given
    twice, before anything is computed.

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
    """Everything but the headlines and commands of a report, in its order."""
    return sections_of(opened.sources, first_sections(opened, num_samples))


def first_sections(opened: PriorSources, num_samples: int) -> list[ReportSection]:
    """What the priors draw and complete, then other folders of samples."""
    priors = [run for run in opened.sources.runs if isinstance(run, PriorRunFolder)]
    sections = []
    shown: list[SampleFolder] = []
    for run in priors:
        drawn = [folder for folder in opened.samples if folder.record.prior == run.fingerprint]
        shown += drawn
        name = f" of {run.name}" if len(priors) > 1 else ""
        sections += prior_sections(run, drawn, num_samples, name)
    others = [folder for folder in opened.samples if folder not in shown]
    return sections + [samples_section(folder, f", {folder.name}") for folder in others]
