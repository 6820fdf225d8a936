"""`imagetok.report`: an HTML report of runs and files of measures."""

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
from imagetok.data.unreadable import left_out_words
from imagetok.durable import canonical_json
from imagetok.errors import ConfigError
from imagetok.evaluation.meanings import meanings_of
from imagetok.evaluation.records import MeasureRecord, side_by_side
from imagetok.io.output_paths import output_file
from imagetok.processes import choose_device
from imagetok.progress import progress_shown
from imagetok.reporting import (
    Block,
    Commands,
    Numbers,
    ReportSection,
    Table,
    Text,
    glossary,
    write_report,
)
from imagetok.results import Result
from imagetok.suggestions import counted
from imagetok.training.run_folder import CONFIG
from imagetok.version import __version__

_SEPARATE = (
    "Each table is followed by what its values depend on; results from different data, networks or "
    "sample counts are in separate tables."
)


@dataclass(frozen=True, repr=False, eq=False)
class Report(Result):
    """The result of `report`: the HTML file, and the records that it shows."""

    path: Path
    """The HTML file."""
    contents: tuple[str, ...]
    """Titles of the sections, in order."""
    records: Mapping[str, MeasureRecord]
    """Name of a run or file -> its held-out measures, with subject and identity."""
    history: Mapping[str, Sequence[Mapping[str, Any]]]
    """Name of a run -> the records of its metrics.jsonl."""

    @property
    def measures(self) -> dict[str, Mapping[str, float | int]]:
        """Name of a run or file -> its measures."""
        return {name: record["measures"] for name, record in self.records.items()}

    def title(self) -> str:
        """Return a title: the path of the report."""
        return f"report: {self.path}"

    def rows(self) -> dict[str, object]:
        """Return the titles of the sections and the number of measures of each run and file."""
        rows: dict[str, object] = {"sections": ", ".join(self.contents)}
        return rows | {name: f"{len(found)} measures" for name, found in self.measures.items()}


def report(
    runs: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Report:
    """Write a self-contained HTML report of one tokenizer run, or of several side by side.

    runs: run folders of tokenizers, and JSON files written by `evaluate`. (For runs of priors and
    folders of samples, call `prior.report`.) out: the HTML file to write; it opens offline. The
    report shows training curves, reconstructions, codes, encoder uncertainty and measures, as far
    as they are available.

    Before anything is computed, raises InputError for a path that is neither, or is damaged, and
    ConfigError for a run of a prior or a path that occurs twice.

    Example: `imagetok.report(["runs/a", "runs/b"], "report.html").contents`
    """
    paths = paths_of(runs)
    output_file(out)
    others = "(prior.report also accepts runs of priors and folders of samples) "
    sources = open_sources(names_of(paths), choose_device(device), others=others)
    with progress_shown(progress):
        return make_report(paths, Path(out), sources)


def paths_of(runs: Path | str | Sequence[Path | str]) -> list[Path]:
    """Return one or several paths as a list; raise ConfigError if there are none."""
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

    paths: paths of all sources, for the command that the report shows. first: sections to put
    before those of tokenizers. names: names for the title if there are no runs.
    """
    sections = [*_headlines(sources.runs), *sections_of(sources, first)]
    sections.append(_commands_section(sources, paths, out))
    methods = dict.fromkeys(run.method for run in sources.runs)
    runs = [run.name for run in sources.runs]
    title = _title(runs or list(names) or list(sources.measures))
    subtitle = f"imagetok report: {', '.join(methods)}" if methods else "imagetok report"
    write_report(out, title, sections, subtitle, measured_on(_records(sources)))
    return Report(
        path=out,
        contents=tuple(section.title for section in sections),
        records=_records(sources),
        history={run.name: run.records for run in sources.runs},
    )


def sections_of(sources: Sources, first: Sequence[ReportSection] = ()) -> list[ReportSection]:
    """Return all sections in order, except summary and commands; `first` come first."""
    tokenizers = [run for run in sources.runs if isinstance(run, TokenizerRunFolder)]
    sections = [*first, *tokenizer_sections(tokenizers)]
    if sources.runs:
        sections.append(training_section(sources.runs))
        sections.append(_what_section(sources.runs))
    sections += _measures_sections(_records(sources))
    return [*sections, environment_section()]


def _records(sources: Sources) -> dict[str, MeasureRecord]:
    """Return the measures of evaluated runs, then those of files, by name."""
    records = {run.name: record_of_run(run) for run in sources.runs if run.test}
    return records | sources.measures


def measured_on(records: Mapping[str, MeasureRecord]) -> str:
    """Return one line on the data of all measures; empty without any."""
    found: dict[str, None] = {}
    for record in records.values():
        identity = record["identity"]
        count, data = identity.get("count"), identity.get("data")
        if isinstance(count, int) and data is not None:
            is_drawn = identity["what"] == "samples"
            what = counted(count, "sample" if is_drawn else "image")
            left_out = left_out_words(int(record["measures"].get("skipped", 0)))
            found[f"{what}{', against' if is_drawn else ' of'} {data}{left_out}"] = None
    return f"Measured on {_title(list(found))}" if found else ""


def training_section(runs: Sequence[RunFolder]) -> ReportSection:
    """Build the training section: every logged curve, one figure per measure for all runs.

    Losses of tokenizers and of priors have different scales, and hence figures of their own.
    """
    by_kind: dict[str, list[RunFolder]] = {}
    for run in _tokenizers_first(runs):
        by_kind.setdefault(run.kind, []).append(run)
    figures: list[Block] = []
    for kind, its in by_kind.items():
        loss = LOSS if len(by_kind) == 1 else LOSS._replace(label=f"{LOSS.label}, {kind}")
        by_label = {curve.label: curve for run in its for curve in run.curves}
        terms = dict.fromkeys(term for run in its for term in run.loss_terms)
        wanted = [*by_label.values(), loss, *map(curve_of_term, terms)]
        figures += figures_of({run.name: run.records for run in its}, wanted)
    once = [Text("Nothing was logged more than once, so there are no curves.")]
    return ReportSection("Training", figures or once)


def _tokenizers_first(runs: Sequence[RunFolder]) -> list[RunFolder]:
    return sorted(runs, key=lambda run: not isinstance(run, TokenizerRunFolder))


def _title(names: Sequence[str]) -> str:
    """Join names as in `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _headlines(runs: Sequence[RunFolder]) -> list[ReportSection]:
    """Build the summary of one run, or of a tokenizer and a prior; none for several of a kind."""
    if not runs or len({run.kind for run in runs}) < len(runs):
        return []
    tiles = [
        (label, _headline(name, run), why)
        for run in _tokenizers_first(runs)
        for name, (label, why) in run.headlines.items()
        if run.test.get(name) is not None
    ]
    for run in runs:
        state = "training finished" if run.artifact else "training not finished"
        if run.test.get("step", run.step) != run.step:
            state += f"; the measures are from step {run.test['step']:,}"
        tiles.append(
            (f"training steps, {run.name}" if len(runs) > 1 else "training steps", run.step, state)
        )
    return [ReportSection("Summary", [Numbers(tiles)])]


def _headline(name: str, run: RunFolder) -> object:
    """Return a held-out measure; `codes_used` with the codebook size."""
    value = run.test[name]
    if name == "codes_used" and "num_codes" in run.test:
        return f"{value:,.0f} of {run.test['num_codes']:,.0f}"
    return value


def _what_section(runs: Sequence[RunFolder]) -> ReportSection:
    """Build the table of configurations, one column per run."""
    summary = [_what(run) for run in runs]
    rows = dict.fromkeys(name for one in summary for name in one)
    table = Table(
        ["", *(run.name for run in runs)],
        [[name, *(one.get(name) for one in summary)] for name in rows],
    )
    return ReportSection("Configuration", [table])


def _what(run: RunFolder) -> dict[str, str | None]:
    config, train = run.config, run.config.train
    summary: dict[str, str | None] = {"kind": run.kind, **run.described()}
    return summary | {
        "batch size": f"{train.batch_size:,}",
        "steps": f"{run.step:,} of {train.steps:,}",
        "seed": str(config.seed),
        "precision": train.precision
        or {"no": "float32"}.get(train.mixed_precision, train.mixed_precision),
        "speed, images/s": _median(run, "images_per_second"),
        "peak memory, MB": _largest(run, "peak_memory_mb"),
        "fingerprint": run.fingerprint[:16] if run.fingerprint else "training not finished",
    }


def _median(run: RunFolder, name: str) -> str | None:
    values = sorted(record[name] for record in run.timing if record.get(name))
    return f"{values[len(values) // 2]:.4g}" if values else None


def _largest(run: RunFolder, name: str) -> str | None:
    values = [record[name] for record in run.timing if record.get(name)]
    return f"{max(values):,.0f}" if values else None


def record_of_run(run: RunFolder) -> MeasureRecord:
    """Return the held-out measures of a run as a record, with subject and identity."""
    measures = {k: v for k, v in run.test.items() if k not in ("step", "split", "num_images")}
    identity: dict[str, object] = {
        "what": f"{run.kind}, in training",
        "count": run.test.get("num_images"),
        **run.measured_on(),
    }
    return MeasureRecord(subject={"step": run.test["step"]}, identity=identity, measures=measures)


def _measures_sections(records: Mapping[str, MeasureRecord]) -> list[ReportSection]:
    """Build one table per identity, so that only comparable measures are tabulated together."""
    groups: dict[bytes, dict[str, MeasureRecord]] = {}
    for name, record in records.items():
        groups.setdefault(canonical_json(record["identity"]), {})[name] = record
    blocks: list[Block] = [Text(_SEPARATE)]
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
    blocks += glossary(
        meanings_of(dict.fromkeys(n for r in records.values() for n in r["measures"]))
    )
    return [ReportSection("Measures", blocks)] if groups else []


def _subject(name: str, record: MeasureRecord) -> str:
    summary = ", ".join(f"{key} {_plain(value)}" for key, value in record["subject"].items())
    return f"{name}: {summary}"


def _plain(value: object) -> str:
    if isinstance(value, str):
        return value
    return "unknown" if value is None else json.dumps(value)


def environment_section() -> ReportSection:
    """Build the section on software versions and hardware."""
    libraries = ("torch", "transformers", "accelerate")
    versions = [("imagetok", __version__), *((name, version(name)) for name in libraries)]
    machine = [
        ("python", platform.python_version()),
        ("machine", f"{platform.system()} {platform.machine()}"),
        ("processors", os.cpu_count()),
        ("threads", torch.get_num_threads()),
    ]
    table = Table(["report written with", ""], [(n, str(v)) for n, v in versions + machine])
    return ReportSection("Environment", [table])


def _commands_section(sources: Sources, paths: Sequence[Path], out: Path) -> ReportSection:
    commands = [
        shlex.join(["imagetok", "train", str(run.path / CONFIG), "--out", f"{run.path}-again"])
        for run in sources.runs
    ]
    commands.append(shlex.join(["imagetok", "report", *map(str, paths), "--out", str(out)]))
    return ReportSection(
        "Commands", [Commands(commands, "Repeat the runs, and write this report.")]
    )
