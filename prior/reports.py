"""A report of runs of tokenizers and priors, of samples and of measures: one HTML file."""

from collections.abc import Sequence
from pathlib import Path

import torch

from imagetok.analysis.report import make_report, sections_of
from imagetok.reporting import Section
from prior.report_folders import PriorRunFolder, PriorSources, SampleFolder, open_all
from prior.report_sections import prior_sections, samples_section


def report_all(
    paths: Sequence[Path], out: Path, *, num_samples: int, device: torch.device
) -> list[str]:
    """Write the report of runs, folders of samples and files of measures; returns its contents.

    num_samples: drawn of each class from every prior. Raises InputError for a path that is none of
    these, before anything is computed.
    """
    opened = open_all(paths, device)
    names = [folder.name for folder in opened.samples]
    first = first_sections(opened, num_samples)
    return make_report(paths, out, opened.sources, first, names)


def sections_of_all(opened: PriorSources, num_samples: int) -> list[Section]:
    """Everything but the headlines and commands of a report, in its order."""
    return sections_of(opened.sources, first_sections(opened, num_samples))


def first_sections(opened: PriorSources, num_samples: int) -> list[Section]:
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
