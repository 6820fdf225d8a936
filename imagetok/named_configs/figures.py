"""The tables and figures of papers: what each trains, and the numbers that the paper prints."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from imagetok.named_configs.experiments import (
    ExpandedSheet,
    Experiment,
    changed,
    joined,
    printed_numbers,
)
from imagetok.named_configs.sheets import Sheet, SheetFigure, SheetSweep
from imagetok.results import Result


@dataclass(frozen=True)
class FigureRun:
    """A tokenizer that a table or figure needs."""

    data: str
    """Name of the data set in the sheet."""
    method: str
    """Name of the method in the sheet."""
    name: str
    """Name of its run: the method, and the point of a sweep if that changes something."""
    what: str
    """Method, and the settings that the figure varies, as text."""
    changes: Mapping[str, Any]
    """Settings of the sweep's point."""
    expected: Mapping[str, str]
    """Column -> number as the paper prints it."""
    source: str
    """The paper and the place in it of these numbers, which for most figures is a table."""
    tree: Mapping[str, Any]
    """The complete config as plain data; its `seed` is any."""
    notes: str
    """What the paper does not specify about it, and deviations."""


@dataclass(frozen=True, repr=False)
class NamedFigure(Result):
    """A table or figure of a paper, which `imagetok reproduce` makes."""

    name: str
    """Name such as papers/edvae/table-1."""
    paper: str
    """Short name of the paper."""
    sheet: SheetFigure
    """What is drawn and measured."""
    data: Mapping[str, str]
    """Data set -> its name in texts."""
    data_settings: Mapping[str, Mapping[str, Any]]
    """Data set -> its part of a config, with `data` and `tokenizer.image`."""
    downloads: frozenset[str]
    """Data sets that `data.download` downloads."""
    seeds: tuple[int, ...]
    """Seeds of the paper's runs, or as many as it reports."""
    runs: tuple[FigureRun, ...]
    """Tokenizers to train, each with every seed."""
    priors: Mapping[str, Mapping[str, Any]]
    """Data set -> config of the prior, without tokenizer and codes; empty without a prior."""
    about: str
    """How the paper's numbers were measured."""

    @property
    def command(self) -> str:
        return f"imagetok reproduce {self.name} --out {self.folder}"

    @property
    def folder(self) -> str:
        """The folder that all tables and figures of the paper share by default."""
        return f"runs/{self.name.rpartition('/')[0].replace('/', '-')}"

    def title(self) -> str:
        return f"{self.name}: {self.sheet.title} ({self.paper}, {self.sheet.source})"

    def rows(self) -> Mapping[str, object]:
        """Return the command, seeds, names for `--only`, runs with the paper's numbers, notes."""
        found: dict[str, object] = {
            "command": self.command,
            "seeds": ", ".join(map(str, self.seeds)),
            "for --only": ", ".join((*self.sheet.data, *self.sheet.methods)),
        }
        for run in self.runs:
            numbers = ", ".join(f"{name}: {value}" for name, value in run.expected.items())
            found[f"{self.data[run.data]}, {run.what}"] = numbers or "no numbers are given"
        return found | ({"notes": self.sheet.notes} if self.sheet.notes else {})

    def summary(self) -> str:
        """Return title and place, for lists."""
        return f"{self.sheet.title} ({self.paper}, {self.sheet.source})"


def figures(expanded: ExpandedSheet) -> list[NamedFigure]:
    """Return every table and figure of a sheet; raises ConfigError for a row of another length."""
    sheet = expanded.sheet
    known = {experiment.name: experiment for experiment in expanded.of_tables()}
    return [
        NamedFigure(
            name=f"{expanded.group}/{name}",
            paper=sheet.title,
            sheet=figure,
            data={data: sheet.data[data].title for data in figure.data},
            data_settings={data: sheet.data[data].set for data in figure.data},
            downloads=frozenset(name for name in figure.data if sheet.data[name].is_downloaded),
            seeds=sheet.seeds,
            runs=tuple(_runs(expanded, figure, known)),
            priors={data: expanded.prior(data, figure.prior) for data in figure.data}
            if figure.prior
            else {},
            about=sheet.about,
        )
        for name, figure in sheet.figures.items()
    ]


def _runs(
    expanded: ExpandedSheet, figure: SheetFigure, known: Mapping[str, Experiment]
) -> Iterator[FigureRun]:
    """Yield the tokenizers of a figure; known: the experiments of the paper's tables, by name."""
    sheet = expanded.sheet
    for data in figure.data:
        for method in figure.methods:
            base = expanded.tokenizer(data, method, figure.source)
            kept = sheet.checkpoints.get(data, {}).get(method)
            settings = {"train.keep_checkpoints": list(kept)} if kept else {}
            its = known.get(base.name)
            sweep = _sweep(sheet, figure, data, method)
            for point, changes in (sweep.points if sweep else {"": {}}).items():
                tree = changed(base.tree, changes)
                is_same = tree == base.tree
                printed = {**its.expected} if its is not None and is_same else {}
                own = _of_point(sweep, data, point) if sweep is not None else {}
                is_here = bool(own) or figure.kind == "table"
                here = f"{sheet.title}, {figure.source}"
                yield FigureRun(
                    data=data,
                    method=method,
                    name=method if is_same else f"{method}-{point}",
                    what=_what(sheet.methods[method].title, figure, changes),
                    changes=changes,
                    expected=_columns(printed | own, figure),
                    source=here if is_here or its is None else its.source,
                    tree=changed(tree, settings),
                    notes=joined(sweep.notes if sweep else "", base.notes),
                )


def _sweep(sheet: Sheet, figure: SheetFigure, data: str, method: str) -> SheetSweep | None:
    """Return the sweep of a figure for a method on a data set; None if it has no sweep."""
    return next(
        (
            sweep
            for sweep in sheet.sweeps
            if sweep.source == figure.sweep and data in sweep.data and method in sweep.methods
        ),
        None,
    )


def _of_point(sweep: SheetSweep, data: str, point: str) -> dict[str, str]:
    row = sweep.rows.get(data, {}).get(point, "")
    return printed_numbers(sweep.columns, row, f"{sweep.source}, {data}, {point}")


def _columns(printed: Mapping[str, str], figure: SheetFigure) -> dict[str, str]:
    """Return the numbers of the figure's columns; those of a prior are named after it too."""
    return {
        column: value
        for column in figure.columns
        for name, value in printed.items()
        if name.partition(" with a ")[0] == column
    }


def _what(title: str, figure: SheetFigure, changes: Mapping[str, Any]) -> str:
    """Return the method, and the settings that the figure varies; others follow from these."""
    varied = {**figure.x, **figure.series}
    return ", ".join(
        [title, *(f"{varied[k]} {_text(v)}" for k, v in changes.items() if k in varied)]
    )


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
