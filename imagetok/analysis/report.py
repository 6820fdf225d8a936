"""A report of runs and measures: one HTML file."""

import json
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from imagetok.analysis.curves import LOSS, curve_of_term, figures_of
from imagetok.analysis.runs import RunFolder, Sources, TokenizerRunFolder, names_of, open_sources
from imagetok.analysis.tokenizer_sections import tokenizer_sections
from imagetok.durable import canonical_json
from imagetok.errors import ConfigError
from imagetok.evaluation.records import MeasureRecord, side_by_side
from imagetok.io.output_paths import output_file
from imagetok.processes import choose_device
from imagetok.progress import progress_shown
from imagetok.reporting import Block, Commands, Numbers, ReportSection, Table, write_report
from imagetok.results import Result
from imagetok.training.run_folder import CONFIG
from imagetok.version import __version__


@dataclass(frozen=True, repr=False, eq=False)
class Report(Result):
    """A page about runs, and what it is made of."""

    path: Path
    """The HTML file."""
    contents: tuple[str, ...]
    """Titles of its sections, in order."""
    records: Mapping[str, MeasureRecord]
    """Held-out measures of runs and of files of measures, by name, with what they belong to."""
    history: Mapping[str, Sequence[Mapping[str, Any]]]
    """What each run logged, by its name: the records of metrics.jsonl."""

    @property
    def measures(self) -> dict[str, Mapping[str, float | int]]:
        """The measures of each run and file, by name."""
        return {name: record["measures"] for name, record in self.records.items()}

    def title(self) -> str:
        """Where it lies."""
        return f"report: {self.path}"

    def rows(self) -> dict[str, object]:
        """How many measures each run and file has."""
        rows: dict[str, object] = {"sections": ", ".join(self.contents)}
        return rows | {name: f"{len(found)} measures" for name, found in self.measures.items()}


def report(
    runs: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Report:
    """Write one self-contained HTML file about a tokenizer run, or about several side by side.

    runs: run folders of tokenizers, and JSON files that `evaluate` wrote. (For runs of priors and
    folders of samples call `prior.report`.) out: the HTML file; it opens from disk, without a
    network. Curves, images before and after, codes, uncertainty, measures: as far as the runs have
    them.

    Raises InputError for a path that is none of these, or damaged, ConfigError for a run of a prior
    and for a path given twice, before anything is computed.

    Example: `imagetok.report(["runs/a", "runs/b"], "report.html").contents`
    """
    paths = paths_of(runs)
    output_file(out)
    others = "(prior.report also shows runs of priors and folders of samples) "
    sources = open_sources(names_of(paths), choose_device(device), others=others)
    with progress_shown(progress):
        return make_report(paths, Path(out), sources)


def paths_of(runs: Path | str | Sequence[Path | str]) -> list[Path]:
    """One or several paths; ConfigError for none."""
    several = [runs] if isinstance(runs, Path | str) else runs
    if not several:
        raise ConfigError("report: expected at least one run, found none")
    return [Path(run) for run in several]


def make_report(
    paths: Sequence[Path],
    out: Path,
    sources: Sources,
    first: Sequence[ReportSection] = (),
    names: Sequence[str] = (),
) -> Report:
    """Write the report of opened sources.

    paths: of all that it is made of, for the command that makes it again. first: sections to put
    before those of tokenizers. names: for the title where there are no runs.
    """
    sections = [*_headlines(sources.runs), *sections_of(sources, first)]
    sections.append(_commands_section(sources, paths, out))
    methods = dict.fromkeys(run.method for run in sources.runs)
    runs = [run.name for run in sources.runs]
    title = _title(runs or list(names) or list(sources.measures))
    write_report(out, title, sections, subtitle=", ".join(methods))
    return Report(
        path=out,
        contents=tuple(section.title for section in sections),
        records=_records(sources),
        history={run.name: run.records for run in sources.runs},
    )


def sections_of(sources: Sources, first: Sequence[ReportSection] = ()) -> list[ReportSection]:
    """Everything but the headlines and commands of a report, in its order; `first` comes first."""
    tokenizers = [run for run in sources.runs if isinstance(run, TokenizerRunFolder)]
    sections = [*first, *tokenizer_sections(tokenizers)]
    if sources.runs:
        sections.append(training_section(sources.runs))
        sections.append(_what_section(sources.runs))
    sections += _measures_sections(_records(sources))
    return [*sections, environment_section()]


def _records(sources: Sources) -> dict[str, MeasureRecord]:
    """Of runs that have been measured, then of files, by name."""
    records = {run.name: record_of_run(run) for run in sources.runs if run.test}
    return records | sources.measures


def training_section(runs: Sequence[RunFolder]) -> ReportSection:
    """All curves that the runs have points for, those of one measure in one figure."""
    by_label = {curve.label: curve for run in _tokenizers_first(runs) for curve in run.curves}
    terms = dict.fromkeys(term for run in runs for term in run.loss_terms)
    wanted = [*by_label.values(), LOSS, *map(curve_of_term, terms)]
    return ReportSection("Training", figures_of({run.name: run.records for run in runs}, wanted))


def _tokenizers_first(runs: Sequence[RunFolder]) -> list[RunFolder]:
    return sorted(runs, key=lambda run: not isinstance(run, TokenizerRunFolder))


def _title(names: Sequence[str]) -> str:
    """All names in one line."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _headlines(runs: Sequence[RunFolder]) -> list[ReportSection]:
    """Of one run, or of a tokenizer and a prior together; none of several of a kind."""
    if not runs or len({run.kind for run in runs}) < len(runs):
        return []
    tiles = [
        (label, _headline(name, run), why)
        for run in _tokenizers_first(runs)
        for name, (label, why) in run.headlines.items()
        if run.test.get(name) is not None
    ]
    for run in runs:
        state = "finished" if run.artifact else "not finished yet"
        if run.test.get("step", run.step) != run.step:
            state += f"; the measures are those of step {run.test['step']:,}"
        tiles.append((f"steps of {run.name}" if len(runs) > 1 else "steps", run.step, state))
    return [ReportSection("In numbers", [Numbers(tiles)])]


def _headline(name: str, run: RunFolder) -> object:
    """A held-out measure; codes used beside how many there are."""
    value = run.test[name]
    if name == "codes_used" and "num_codes" in run.test:
        return f"{value:,.0f} of {run.test['num_codes']:,.0f}"
    return value


def _what_section(runs: Sequence[RunFolder]) -> ReportSection:
    """What each run is, a column a run."""
    summary = [_what(run) for run in runs]
    rows = dict.fromkeys(name for one in summary for name in one)
    table = Table(
        ["", *(run.name for run in runs)],
        [[name, *(one.get(name) for one in summary)] for name in rows],
    )
    return ReportSection("What it is" if len(runs) == 1 else "What they are", [table])


def _what(run: RunFolder) -> dict[str, str | None]:
    config, train = run.config, run.config.train
    summary: dict[str, str | None] = {"kind": run.kind, **run.described()}
    return summary | {
        "batch size": f"{train.batch_size:,}",
        "steps": f"{run.step:,} of {train.steps:,}",
        "seed": str(config.seed),
        "precision": "float32" if train.mixed_precision == "no" else train.mixed_precision,
        "speed, images/s": _median(run, "images_per_second"),
        "memory at the peak, MB": _largest(run, "peak_memory_mb"),
        "fingerprint": run.fingerprint[:16] if run.fingerprint else "not finished yet",
    }


def _median(run: RunFolder, name: str) -> str | None:
    values = sorted(record[name] for record in run.timing if record.get(name))
    return f"{values[len(values) // 2]:.4g}" if values else None


def _largest(run: RunFolder, name: str) -> str | None:
    values = [record[name] for record in run.timing if record.get(name)]
    return f"{max(values):,.0f}" if values else None


def record_of_run(run: RunFolder) -> MeasureRecord:
    """The held-out measures of a run, with what they belong to."""
    measures = {k: v for k, v in run.test.items() if k not in ("step", "split", "num_images")}
    identity: dict[str, object] = {
        "what": f"{run.kind}, in training",
        "count": run.test.get("num_images"),
        **run.measured_on(),
    }
    return MeasureRecord(subject={"step": run.test["step"]}, identity=identity, measures=measures)


def _measures_sections(records: Mapping[str, MeasureRecord]) -> list[ReportSection]:
    """One table for each identity: numbers measured differently share none."""
    groups: dict[bytes, dict[str, MeasureRecord]] = {}
    for name, record in records.items():
        groups.setdefault(canonical_json(record["identity"]), {})[name] = record
    blocks: list[Block] = []
    for group in groups.values():
        rows = side_by_side(group)
        identity = next(iter(group.values()))["identity"]
        caption = "\n".join(
            [_subject(name, record) for name, record in group.items()]
            + [f"{key}: {_plain(value)}" for key, value in identity.items()]
        )
        table = [
            [measure, *(values.get(name) for name in group)] for measure, values in rows.items()
        ]
        blocks.append(Table(["measure", *group], table, caption))
    return [ReportSection("Measures", blocks)] if blocks else []


def _subject(name: str, record: MeasureRecord) -> str:
    summary = ", ".join(f"{key} {_plain(value)}" for key, value in record["subject"].items())
    return f"{name}: {summary}"


def _plain(value: object) -> str:
    if isinstance(value, str):
        return value
    return "unknown" if value is None else json.dumps(value)


def environment_section() -> ReportSection:
    """What the report was made with."""
    libraries = ("torch", "transformers", "accelerate")
    versions = [("imagetok", __version__), *((name, version(name)) for name in libraries)]
    machine = [
        ("python", platform.python_version()),
        ("machine", f"{platform.system()} {platform.machine()}"),
        ("processors", os.cpu_count()),
        ("threads", torch.get_num_threads()),
    ]
    table = Table(["this report was made with", ""], [(n, str(v)) for n, v in versions + machine])
    return ReportSection("Environment", [table])


def _commands_section(sources: Sources, paths: Sequence[Path], out: Path) -> ReportSection:
    commands = [
        shlex.join(["imagetok", "train", str(run.path / CONFIG), "--out", f"{run.path}-again"])
        for run in sources.runs
    ]
    commands.append(shlex.join(["imagetok", "report", *map(str, paths), "--out", str(out)]))
    return ReportSection("Commands", [Commands(commands, "The runs again, and this report.")])
