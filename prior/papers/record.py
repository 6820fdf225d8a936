"""The numbers of a paper's table or figure: as the paper prints them, and as they were found."""

import statistics
from collections.abc import Mapping
from typing import Any, Literal

from imagetok.comparison.plan import Trial
from imagetok.comparison.results import TrialResult
from imagetok.comparison.table import (
    follow_up_notes,
    markdown_row,
    named_seeds,
    rule,
    spread,
)
from imagetok.config import Section
from imagetok.evaluation.meanings import meanings_of
from imagetok.io.markdown import block, plain
from imagetok.named_configs.sheets import SheetColumn
from prior.papers.trials import PlannedRun

_DISTANCES = ("fid", "rfid", "precision", "recall")
"""Beginnings of the measures that are distances in the features of a network."""


class FoundNumber(Section):
    """A measure of one run, in the paper's units, over the seeds that finished."""

    mean: float
    std: float | None
    """Sample standard deviation; None for a single seed."""
    values: tuple[float, ...]
    """One value per finished seed."""


NumberTable = dict[str, dict[str, float]]
"""Row -> column -> number."""


class FigureRow(Section):
    """One tokenizer of a table or figure."""

    data: str
    """Name of the data set in the sheet."""
    run: str
    """Name of the run, which is also its folder."""
    what: str
    """Method and changed settings as text."""
    notes: str
    """What the paper does not specify about it."""
    seeds: tuple[int, ...]
    """Seeds that finished."""
    failed: dict[int, str]
    """Seed -> reason of a failure."""
    expected: dict[str, str]
    """Column -> the number as the paper prints it; columns without one are missing."""
    source: str
    """The paper and the place in it of these numbers, which for most figures is a table."""
    found: dict[str, FoundNumber]
    """Column -> the number found; missing if no seed has the measure."""


class FigureRecord(Section):
    """Content of `record.json` of a table or figure."""

    format_version: Literal[1] = 1
    figure: str
    """Name such as papers/edvae/table-1."""
    title: str
    paper: str
    source: str
    """Place in the paper."""
    about: str
    """How the paper's numbers were measured."""
    notes: str
    command: str
    settings: tuple[str, ...]
    """Settings that are not those of the paper."""
    seeds: tuple[int, ...]
    identities: dict[str, dict[str, str]]
    """Data set -> identities of its training and test images."""
    network: str
    """Network of the distances, where it is not the paper's; empty otherwise."""
    measured: dict[str, Any]
    """Data set -> what distances and priors depend on; empty without them."""
    machine: dict[str, str | int]
    versions: dict[str, str]
    columns: dict[str, SheetColumn]
    rows: tuple[FigureRow, ...]
    drawn: dict[str, NumberTable]
    """Data set -> the numbers behind its drawing that are in no row."""


def figure_row(
    planned: PlannedRun,
    columns: Mapping[str, SheetColumn],
    results: Mapping[Trial, TrialResult],
) -> FigureRow:
    """Return the row of a run from the results of its trials."""
    trials = [results[trial] for trial in planned.trials if trial in results]
    finished = [trial for trial in trials if trial.status == "finished"]
    found = {}
    for title, column in columns.items():
        values = [value_of(column, trial.measures) for trial in finished]
        known = tuple(value for value in values if value is not None)
        if known:
            std = statistics.stdev(known) if len(known) > 1 else None
            found[title] = FoundNumber(mean=statistics.fmean(known), std=std, values=known)
    return FigureRow(
        data=planned.run.data,
        run=planned.run.name,
        what=planned.run.what,
        notes=planned.run.notes,
        seeds=tuple(trial.seed for trial in finished),
        failed={trial.seed: trial.reason for trial in trials if trial.status == "failed"},
        expected=dict(planned.run.expected),
        source=planned.run.source,
        found=found,
    )


def value_of(column: SheetColumn, measures: Mapping[str, float | int]) -> float | None:
    """Return a column's value in the paper's units; None if none of its measures is known."""
    names = [column.measure] if isinstance(column.measure, str) else column.measure
    known = [measures[name] for name in names if name in measures]
    return column.scale * sum(known) if known else None


def table_of(
    record: FigureRecord, data_titles: Mapping[str, str]
) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table: every number of the paper beside the one found."""
    header = ["method", "data"]
    for title in record.columns:
        header += [f"{title}, paper", f"{title}, {_found(record, title)}"]
    rows = [
        [
            row.what,
            data_titles[row.data],
            *(cell for title in record.columns for cell in _pair(row, record, title)),
            _seeds(row),
        ]
        for row in record.rows
    ]
    return [*header, "seeds"], rows


def tables_of(
    record: FigureRecord, data_titles: Mapping[str, str]
) -> list[tuple[list[str], list[list[str]]]]:
    """Return header and rows of every table: the paper's columns, if any, and each drawing's."""
    own = [table_of(record, data_titles)] if record.rows and record.columns else []
    return [*own, *drawn_tables(record, data_titles)]


def meanings_of_columns(record: FigureRecord) -> dict[str, str]:
    """Return what the columns mean, by their titles."""
    return {
        title: meaning
        for title, column in record.columns.items()
        for meaning in meanings_of(
            [column.measure] if isinstance(column.measure, str) else column.measure[:1]
        ).values()
    }


def markdown(record: FigureRecord, data_titles: Mapping[str, str]) -> str:
    """Return the table in Markdown, with notes and the command."""
    lines = [f"# {plain(record.source)}: {plain(record.title)}", ""]
    for header, rows in tables_of(record, data_titles):
        lines += [markdown_row(header), rule(len(header)), *map(markdown_row, rows), ""]
    lines += [f"{plain(sentence)}  " for sentence in notes_of(record)]
    return "\n".join([*lines, "", *block(record.command, "sh"), ""])


def drawn_tables(
    record: FigureRecord, data_titles: Mapping[str, str]
) -> list[tuple[list[str], list[list[str]]]]:
    """Return header and rows of the numbers behind each drawing."""
    tables = []
    for data, numbers in record.drawn.items():
        columns = list(dict.fromkeys(name for row in numbers.values() for name in row))
        rows = [[name, *(f"{row[c]:.4g}" for c in columns)] for name, row in numbers.items()]
        tables.append(([data_titles[data], *columns], rows))
    return tables


def notes_of(record: FigureRecord) -> list[str]:
    """Return the notes on the table: source, seeds, deviations from the paper, machine."""
    machine = ", ".join(
        f"{value} cores" if name == "cores" else str(value)
        for name, value in record.machine.items()
    )
    versions = ", ".join(f"{name} {value}" for name, value in record.versions.items())
    own: dict[str, dict[str, None]] = {}  # note -> the methods that it is about
    for row in record.rows:
        own.setdefault(row.notes, {})[row.what] = None
    return [
        _source_note(record),
        *([f"Not the paper's settings: {', '.join(record.settings)}."] if record.settings else []),
        *_measured_notes(record),
        record.about,
        *([record.notes] if record.notes else []),
        *(f"{'; '.join(about)}: {notes}" for notes, about in own.items() if notes),
        *(
            f"{row.what}, {row.data}, seed {seed}: {reason}."
            for row in record.rows
            for seed, reason in row.failed.items()
        ),
        f"Machine: {machine}. Versions: {versions}.",
    ]


def _measured_notes(record: FigureRecord) -> list[str]:
    """Return what distances and priors were measured on, for each data set."""
    return [
        f"{f'{data}: ' if len(record.measured) > 1 else ''}{sentence}"
        for data, details in record.measured.items()
        for sentence in follow_up_notes(details)
    ]


def _source_note(record: FigureRecord) -> str:
    """Return where the numbers are from: the place in the paper, and the seeds."""
    place = f"{record.paper}, {record.source}"
    if not record.rows:
        return f"{place}."
    chosen = named_seeds(record.seeds)
    if not record.columns:
        return f"{place}; trained with {chosen}."
    mean = "" if len(record.seeds) == 1 else "mean ± sample standard deviation over "
    sources = dict.fromkeys(row.source for row in record.rows if row.expected)
    printed = f"Columns named paper: {'; '.join(sources)}. " if sources else ""
    return f"{printed}Found: {mean}{chosen}."


def long_rows(record: FigureRecord, data_titles: Mapping[str, str]) -> dict[str, str]:
    """Return one line per tokenizer and column: the number of the paper and the one found."""
    lines = {}
    for row in record.rows:
        for title in record.columns:
            printed, found = _pair(row, record, title)
            name = f"{data_titles[row.data]}, {row.what}: {title}"
            lines[name] = f"paper {printed}, {_found(record, title)} {found}"
    return lines


def _found(record: FigureRecord, title: str) -> str:
    """Return the name of the found numbers, with the network if the paper measured in another."""
    measure = record.columns[title].measure
    is_distance = isinstance(measure, str) and measure.startswith(_DISTANCES)
    return f"found in {record.network}" if record.network and is_distance else "found"


def _pair(row: FigureRow, record: FigureRecord, title: str) -> tuple[str, str]:
    """Return the printed number and the one found; a dash for none."""
    expected, found = row.expected.get(title), row.found.get(title)
    if found is not None:
        text = spread(found.mean, found.std, f".{record.columns[title].digits}f")
    else:
        is_diverged = row.failed and not row.seeds and "diverged" in " ".join(row.failed.values())
        text = "diverged" if is_diverged else "\N{EN DASH}"
    return expected or "\N{EN DASH}", text


def _seeds(row: FigureRow) -> str:
    failed = [f"{len(row.failed)} failed"] if row.failed else []
    return ", ".join([*map(str, row.seeds), *failed])
