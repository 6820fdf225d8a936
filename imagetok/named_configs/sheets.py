"""A sheet: a paper's base config as data, and what its tables and sweeps change.

A sheet is a YAML file in `configs/papers/` or `configs/comparisons/`. Keys of `set`, `on` and
`points` are dotted, as those of `--set`; each replaces the value or section of that name.
"""

from typing import Any

from pydantic import Field, model_validator

from imagetok.config import Section

ConfigChanges = dict[str, Any]
TableRows = dict[str, dict[str, str]]


class SheetData(Section):
    """A data set, and what it changes."""

    title: str
    """How the data set is called."""
    is_downloaded: bool = False
    """Whether `--set data.download=true` fetches it."""
    set: ConfigChanges
    """What every experiment on it has."""


class SheetMethod(Section):
    """A row of a table."""

    title: str
    """How the method is called."""
    notes: str = ""
    """What the paper leaves open, and where it is not followed."""
    set: ConfigChanges
    """What every experiment of it has."""
    on: dict[str, ConfigChanges] = Field({})
    """What it has on one of the data sets."""


class SheetPrior(Section):
    """A prior that is trained on the codes of a table's tokenizers."""

    title: str
    """How the prior is called."""
    notes: str = ""
    """What the paper leaves open, and where it is not followed."""
    base: ConfigChanges
    """Its config, without `tokenizer` and `data.source`."""
    on: dict[str, ConfigChanges] = Field({})
    """What it has on one of the data sets."""


class SheetPriorUse(Section):
    """That a table's tokenizers get a prior."""

    use: str
    """Which of `priors`."""
    columns: tuple[str, ...] = ()
    """Its measures, which follow the tokenizer's in a row."""
    source: str = ""
    """Where in the paper, if not where the table is."""
    methods: tuple[str, ...] = ()
    """Which methods get one; empty: all of the table."""


class SheetTable(Section):
    """A table of the paper: an experiment each row."""

    source: str
    """Where in the paper."""
    path: str
    """The other name of its configs, with {data} and {name} in it."""
    paths: dict[str, str] = Field({})
    """Those that are otherwise, by DATA/NAME."""
    columns: tuple[str, ...] = ()
    """The names of the measures; none: the paper draws them."""
    prior: SheetPriorUse | None = None
    """The prior on each."""
    rows: TableRows
    """Data set -> method -> the numbers, as the paper prints them, separated by commas."""


class SheetSweep(Section):
    """A table or figure in which methods are changed in one or two keys."""

    source: str
    """Where in the paper."""
    path: str
    """The other name of its configs, with {data} and {name} in it."""
    data: tuple[str, ...]
    """On these data sets."""
    methods: tuple[str, ...]
    """Each of these methods."""
    notes: str = ""
    """What the paper leaves open."""
    points: dict[str, ConfigChanges]
    """Name -> what it changes. One that changes nothing is the method's own experiment."""
    columns: tuple[str, ...] = ()
    """The names of the measures; none: the paper draws them."""
    rows: TableRows = Field({})
    """Data set -> point -> the numbers, as the paper prints them, separated by commas."""


class Sheet(Section):
    """All experiments of one paper."""

    title: str
    """How the paper is called."""
    about: str
    """Who wrote it, how long its runs are, and what its numbers are."""
    notes: str
    """What holds for every experiment; it may be empty."""
    base: ConfigChanges
    """What all configs of tokenizers share."""
    data: dict[str, SheetData]
    """The data sets by name."""
    methods: dict[str, SheetMethod]
    """The methods by name."""
    priors: dict[str, SheetPrior] = Field({})
    """The priors by name."""
    tables: tuple[SheetTable, ...]
    """The tables."""
    sweeps: tuple[SheetSweep, ...] = ()
    """The sweeps."""

    @model_validator(mode="after")
    def _check(self) -> "Sheet":
        names = [
            *((name, self.data) for table in self.tables for name in table.rows),
            *((n, self.methods) for t in self.tables for row in t.rows.values() for n in row),
            *((name, self.data) for method in self.methods.values() for name in method.on),
            *((table.prior.use, self.priors) for table in self.tables if table.prior),
            *((name, self.data) for sweep in self.sweeps for name in (*sweep.data, *sweep.rows)),
            *((name, self.methods) for sweep in self.sweeps for name in sweep.methods),
            *((n, s.points) for s in self.sweeps for row in s.rows.values() for n in row),
        ]  # fmt: skip
        unknown = [name for name, known in names if name not in known]
        if unknown:
            raise ValueError(f"not defined in the sheet: {', '.join(unknown)}")
        return self
