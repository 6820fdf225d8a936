"""Schema of a sheet: the base config of a paper's experiments, what each table row changes, and the
paper's tables and figures, each of which one command reproduces.

A sheet is a YAML file in `configs/papers/` or `configs/comparisons/`. Keys in `set`, `on` and
`points` are dotted like those of `--set`; each replaces the value or section of that name.
"""

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from imagetok.config import Section

ConfigChanges = dict[str, Any]
TableRows = dict[str, dict[str, str]]


class SheetData(Section):
    """A data set, and the settings of all experiments on it."""

    title: str
    """Name of the data set, for texts."""
    is_downloaded: bool = False
    """Whether `--set data.download=true` downloads it."""
    set: ConfigChanges
    """Settings of every experiment on it."""


class SheetMethod(Section):
    """A method, which is a row of a table, and its settings."""

    title: str
    """Name of the method, for texts."""
    notes: str = ""
    """What the paper does not specify, and deviations from it."""
    set: ConfigChanges
    """Settings of every experiment with it."""
    on: dict[str, ConfigChanges] = Field({})
    """Additional settings by data set."""


class SheetPrior(Section):
    """A prior that is trained on the codes of a table's tokenizers."""

    title: str
    """Name of the prior, for texts."""
    notes: str = ""
    """What the paper does not specify, and deviations from it."""
    base: ConfigChanges
    """Its config, without `tokenizer` and `data.source`."""
    on: dict[str, ConfigChanges] = Field({})
    """Additional settings by data set."""


class SheetPriorUse(Section):
    """Which prior is trained for the tokenizers of a table."""

    use: str
    """Name of the prior in `priors`."""
    columns: tuple[str, ...] = ()
    """Measures of the prior, which follow those of the tokenizer in a row."""
    source: str = ""
    """Place in the paper, if it differs from the table's."""
    methods: tuple[str, ...] = ()
    """Methods for which a prior is trained; empty: all of the table."""


class SheetTable(Section):
    """A table of the paper, with one experiment per row."""

    source: str
    """Place in the paper, such as the number of the table."""
    path: str
    """Alias of its configs, containing {data} and {name}."""
    paths: dict[str, str] = Field({})
    """Aliases that differ from `path`, by DATA/NAME."""
    columns: tuple[str, ...] = ()
    """Names of the measures; empty if the paper only plots them."""
    prior: SheetPriorUse | None = None
    """Prior that is trained for each tokenizer."""
    rows: TableRows
    """Data set -> method -> the numbers as printed in the paper, separated by commas."""


class SheetSweep(Section):
    """A table or figure in which one or two settings of methods are varied."""

    source: str
    """Place in the paper, such as the number of the figure."""
    path: str
    """Alias of its configs, containing {data} and {name}."""
    data: tuple[str, ...]
    """Data sets of the sweep."""
    methods: tuple[str, ...]
    """Methods that are varied."""
    notes: str = ""
    """What the paper does not specify."""
    points: dict[str, ConfigChanges]
    """Name -> changed settings; a point without changes is the method's own experiment."""
    columns: tuple[str, ...] = ()
    """Names of the measures; empty if the paper only plots them."""
    rows: TableRows = Field({})
    """Data set -> point -> the numbers as printed in the paper, separated by commas."""


FigureKind = Literal[
    "table",
    "lines",
    "curves",
    "entropy",
    "entropy-maps",
    "reconstructions",
    "stages",
    "samples",
    "labels",
]
"""What a figure shows besides its table of expected and found numbers, which each has.

`table`: nothing more. `lines`: measures against a setting. `curves`: held-out measures over
training. `entropy`: entropy of the code probabilities on the training split over training.
`entropy-maps`: the same at every position of one image. `reconstructions`: images and their
reconstructions by every method. `stages`: reconstructions at several steps of training. `samples`:
images drawn by the prior of every method. `labels`: t-SNE maps of training images by label.
"""


class SheetColumn(Section):
    """A measure of a table or figure, under the name that the paper gives it."""

    measure: str | tuple[str, ...]
    """Name of the measure; of several names, those that a method has are added up."""
    scale: float = 1.0
    """Factor between the measure and the paper's number."""
    digits: int = 2
    """Decimal places."""


class SheetFigure(Section):
    """A table or figure of the paper, which one command reproduces."""

    title: str
    """What it shows."""
    source: str
    """Place in the paper, such as the number of the table."""
    kind: FigureKind
    """What is drawn."""
    data: tuple[str, ...]
    """Data sets."""
    methods: tuple[str, ...] = ()
    """Methods; may be empty for `labels`, which trains nothing."""
    sweep: str = ""
    """Source of the sweep whose points are trained; empty: the methods as they are."""
    x: dict[str, str] = Field({})
    """For `lines`: the settings on the horizontal axes, one panel each -> name in the paper."""
    series: dict[str, str] = Field({})
    """For `lines`: the settings that separate the lines of a method -> name in texts."""
    columns: dict[str, SheetColumn] = Field({})
    """Name in the paper -> measure."""
    features: tuple[str, ...] = ()
    """Networks whose features distances are measured in, as for `imagetok evaluate`."""
    prior: str = ""
    """Prior that is trained on the codes of each tokenizer."""
    neighbours: tuple[PositiveInt, ...] = ()
    """Distances are also measured with every code replaced by one of its n nearest codes, for each
    of these n, and between two images."""
    unit: Literal["step", "epoch"] = "step"
    """For `curves` and `stages`: what training is counted in."""
    labels: tuple[str, ...] = ()
    """For `labels`: the values of `data.label` that colour a map each."""
    notes: str = ""
    """What the paper does not specify, and how to read the result."""


class Sheet(Section):
    """All experiments of one paper."""

    title: str
    """Short name of the paper."""
    about: str
    """Authors, length of the runs, and how the numbers were measured."""
    notes: str
    """Notes that apply to every experiment; may be empty."""
    base: ConfigChanges
    """Settings that the configs of all tokenizers share."""
    data: dict[str, SheetData]
    """Data sets by name."""
    methods: dict[str, SheetMethod]
    """Methods by name."""
    priors: dict[str, SheetPrior] = Field({})
    """Priors by name."""
    tables: tuple[SheetTable, ...]
    """Tables of the paper."""
    sweeps: tuple[SheetSweep, ...] = ()
    """Sweeps of the paper."""
    seeds: tuple[int, ...] = ()
    """Seeds of the paper's runs, or as many as it reports."""
    checkpoints: dict[str, dict[str, tuple[PositiveInt, ...]]] = Field({})
    """Data set -> method -> steps whose checkpoints the figures of training need."""
    figures: dict[str, SheetFigure] = Field({})
    """Tables and figures of the paper by name, such as table-1."""

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
            *((name, self.data) for figure in self.figures.values() for name in figure.data),
            *((name, self.methods) for figure in self.figures.values() for name in figure.methods),
            *((f.prior, self.priors) for f in self.figures.values() if f.prior),
            *((f.sweep, {s.source for s in self.sweeps}) for f in self.figures.values() if f.sweep),
            *((name, self.data) for name in self.checkpoints),
            *((name, self.methods) for kept in self.checkpoints.values() for name in kept),
        ]  # fmt: skip
        unknown = [name for name, known in names if name not in known]
        if unknown:
            raise ValueError(f"not defined in the sheet: {', '.join(unknown)}")
        return self
