"""Figures as SVG: curves, code usage and bars, and their common style; equal data, equal bytes.

Only matplotlib's object-oriented interface is used, so no figure stays open and no global backend
is selected. Text remains text in the SVG, and colours follow the reader's light or dark mode.
"""

import io
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike
from torch import Tensor

from imagetok.errors import InputError
from imagetok.suggestions import counted

INK = "#2b3038"
FAINT = "#d9dde3"
_QUIET = "#6a7280"
# The colour-blind safe palette of Okabe & Ito (2008), without black and yellow, which are invisible
# on a dark or a light page.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_OF_NOTES = ("#0067a3", "#b04a00", "#00765a", "#a3447d", "#8a5f00", "#1f78a8")
"""The same colours, dark enough for text on a light page."""
DASHES = ("-", "--", ":", "-.")
_IN_THE_DARK = {
    INK: "#dfe3e9",
    FAINT: "#343a44",
    _QUIET: "#98a1af",
    "#0072b2": "#4aa8e0",
    "#d55e00": "#f08a43",
    "#009e73": "#2cc79a",
    **dict(zip(_OF_NOTES, ("#4aa8e0", "#f08a43", "#2cc79a", *COLOURS[3:]), strict=True)),
}
_SIZE = (5.0, 3.0)  # inches; its text of 10 points can also be read on a phone
_LEGEND_WIDTH = 60  # characters per row of a legend; a line sample takes six
_LABEL_WIDTH = 34  # characters per line of the label of the y axis
_NOTE_HEIGHT = 0.075  # of a note beside a point, as a share of the axes
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "imagetok",
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": _QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": _QUIET,
    "ytick.labelcolor": _QUIET,
    "legend.frameon": False,
}


def curves(
    series: Mapping[str, tuple[ArrayLike | Tensor, ArrayLike | Tensor]],
    xlabel: str,
    ylabel: str,
    log: bool = False,
    bands: Mapping[str, ArrayLike | Tensor] | None = None,
) -> bytes:
    """Draw named lines y(x) as SVG; values that are not finite, or not positive if log, are gaps.

    A line of a single point is drawn as that point with its value. series: name -> (x, y), two
    vectors of equal length. log: use a logarithmic y axis. bands: name -> half the width of a band
    around that line, such as a standard deviation.

    Raises InputError without series and for vectors of different lengths.
    """
    widths = {name: _vector(width, name) for name, width in (bands or {}).items()}
    if not series:
        raise InputError(f"curves of {ylabel!r}: expected at least one series, found none")
    points = {name: (_vector(x, name), _vector(y, name)) for name, (x, y) in series.items()}
    for name, (x, y) in points.items():
        if len(x) != len(y):
            raise InputError(
                f"curves of {ylabel!r}: series {name!r} has {len(x)} x values and {len(y)} y values"
            )

    def draw(axes: Axes) -> None:
        for i, (name, (x, y)) in enumerate(points.items()):
            colour = COLOURS[i % len(COLOURS)]
            shown = np.isfinite(y) & ((y > 0) | (not log))
            axes.plot(
                x,
                np.where(shown, y, np.nan),
                label=name,
                color=colour,
                linestyle=DASHES[i // len(COLOURS) % len(DASHES)],
                linewidth=1.8,
                marker="o" if shown.sum() == 1 else None,  # a single point draws no line
                markersize=5,
            )
            if name in widths:
                edges = (y - widths[name], y + widths[name])
                axes.fill_between(x, *edges, color=colour, alpha=0.18, lw=0)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(textwrap.fill(ylabel, _LABEL_WIDTH))
        places = np.unique(np.concatenate([x for x, _ in points.values()]))
        if 1 < len(places) <= 12 and (np.diff(places) == 1).all():
            axes.xaxis.set_major_locator(FixedLocator(places.tolist()))  # one tick per bin
        if log:
            logarithmic(axes)
        label_single_points(axes)
        if len(points) > 1:
            legend_above(axes, list(points))

    return drawing(draw)


def usage_histogram(counts: ArrayLike | Tensor) -> bytes:
    """Draw the number of uses of each code as SVG, the most used code first.

    counts: (K,) uses of each code. A dashed line marks equal use of all K codes, and a note states
    the number of unused codes.
    """
    ordered, unused = sorted_usage(counts)
    num_codes = len(ordered)
    equal = float(ordered.mean())

    def draw(axes: Axes) -> None:
        axes.stairs(ordered, np.arange(num_codes + 1), fill=True, color=COLOURS[0], linewidth=0)
        axes.axhline(equal, color=COLOURS[1], linewidth=1.4, linestyle="--")
        axes.set_xlim(0, num_codes)
        axes.set_ylim(0, max(float(ordered[0]), equal, 1.0) * 1.05)
        # Notes above the axes, so that bars and grid lines do not cross them.
        at_the_top = {"y": 1.03, "va": "bottom", "transform": axes.transAxes}
        unused_note = f"{unused:,} of {counted(num_codes, 'code')} unused"
        axes.text(x=0, s=unused_note, color=INK, ha="left", **at_the_top)
        equal_note = f"equal use: {equal:,.4g} each"
        axes.text(x=1, s=equal_note, color=_OF_NOTES[1], ha="right", **at_the_top)
        axes.set_xlabel("codes, most used first")
        axes.set_ylabel("times used")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(visible=False, axis="x")

    return drawing(draw)


def sorted_usage(counts: ArrayLike | Tensor) -> tuple[np.ndarray, int]:
    """Return the uses of each code in descending order, and the number of unused codes.

    counts: (K,) integers >= 0, K >= 1.
    """
    uses = _vector(counts, "counts")
    if len(uses) == 0 or not (np.isfinite(uses).all() and (uses >= 0).all()):
        raise InputError(
            "expected counts of at least one code, each >= 0; pass a bincount of codes"
        )
    return np.sort(uses)[::-1], int((uses == 0).sum())


def bars(values: Mapping[str, float], xlabel: str) -> bytes:
    """Draw one horizontal bar per name as SVG, in the given order, labelled with its value."""
    if not values:
        raise InputError(f"bars of {xlabel!r}: expected at least one value, found none")
    lengths = np.array([float(value) for value in values.values()])
    if not np.isfinite(lengths).all():
        raise InputError(f"bars of {xlabel!r}: expected finite values, found {dict(values)}")

    def draw(axes: Axes) -> None:
        drawn = axes.barh(np.arange(len(values)), lengths, height=0.62, color=COLOURS[0])
        axes.bar_label(drawn, [f"{v:,.4g}" for v in lengths], padding=4, color=INK)
        axes.set_yticks(np.arange(len(values)), labels=list(values))
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.invert_yaxis()
        axes.margins(x=0.16)
        if (lengths >= 0).all():
            axes.set_xlim(left=0, right=None if lengths.any() else 1)
        axes.set_xlabel(xlabel)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(bool((lengths >= 0).all()))

    return drawing(draw, height=0.9 + 0.36 * len(values))


def _vector(values: ArrayLike | Tensor, name: str) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1:
        raise InputError(f"{name}: expected a vector of numbers, found shape {vector.shape}")
    return vector


def legend_above(axes: Axes, names: Sequence[str], most: int = 3, markerscale: float = 1.0) -> None:
    """Add the legend of the named lines above the axes, in order, in at most `most` columns."""
    handles, labels = axes.get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    columns = min(len(names), most, max(1, _LEGEND_WIDTH // (max(map(len, names)) + 6)))
    axes.legend(
        [known[name] for name in names],
        names,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        borderaxespad=0.2,
        markerscale=markerscale,
    )


def label_single_points(axes: Axes) -> None:
    """Write the value of every line of a single point beside it, so that notes do not overlap.

    Call it when the limits of the axes are final.
    """
    found = []
    for line in axes.lines:
        x, y = (np.asarray(values, dtype=np.float64) for values in line.get_data())
        shown = np.isfinite(y)
        if shown.sum() == 1:
            found.append((float(x[shown][0]), float(y[shown][0]), line.get_color()))
    places = {x for x, _, _ in found}
    if len(places) == 1 and len(found) == len(axes.lines):
        axes.set_xticks(list(places))  # the only place
    limits = axes.get_xlim(), axes.get_ylim()
    of_notes = dict(zip(COLOURS, _OF_NOTES, strict=True))
    heights = {point: _height_in(axes, point[1]) for point in found}
    lowest = -1.0
    for point in sorted(found, key=lambda point: heights[point]):
        lowest = max(heights[point], lowest + _NOTE_HEIGHT)
        x, y, colour = point
        lifted = (8, (lowest - heights[point]) * 72 * _SIZE[1])  # points
        axes.annotate(
            f"{y:,.4g}",
            (x, y),
            lifted,
            textcoords="offset points",
            va="center",
            color=of_notes.get(colour, INK),
        )
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])


def _height_in(axes: Axes, y: float) -> float:
    """Return the vertical position of a value as a share of the axes."""
    return float(axes.transAxes.inverted().transform(axes.transData.transform((1.0, y)))[1])


def logarithmic(axes: Axes) -> None:
    """Use a logarithmic y axis with tick labels like 0.2, 0.5, 1 instead of powers of ten."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    steps = (1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)
    if high / low < 30:
        steps = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def panels(draws: Sequence[Callable[[Axes], None]], width: float, height: float) -> bytes:
    """Draw several panels side by side as one PNG on white; width and height in inches."""
    buffer = io.BytesIO()
    with _style_of_figures():
        figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
        for i, draw in enumerate(draws, start=1):
            draw(figure.add_subplot(1, len(draws), i))
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def picture_table(
    rows: Mapping[str, Sequence[np.ndarray]],
    columns: Sequence[str],
    unit: str,
    beside: np.ndarray | None = None,
) -> bytes:
    """Draw maps (h, w) in rows and columns as one PNG, all on one scale from 0, with its bar.

    rows: name -> a map per column. unit: of the values. beside: an image (H, W, 3) in [0, 1] at the
    left of every row.
    """
    most = max(float(values.max()) for maps in rows.values() for values in maps)
    first = 0 if beside is None else 1
    buffer = io.BytesIO()
    with _style_of_figures():
        size = (1.5 * (len(columns) + first) + 1.2, 1.5 * len(rows) + 0.5)
        figure = Figure(figsize=size, dpi=150, layout="constrained", facecolor="white")
        grid = figure.subplots(len(rows), len(columns) + first, squeeze=False)
        shown = None
        for places, (name, maps) in zip(grid, rows.items(), strict=True):
            if beside is not None:
                places[0].imshow(beside, interpolation="nearest")
            for axes, values in zip(places[first:], maps, strict=True):
                shown = axes.imshow(values, vmin=0, vmax=max(most, 1e-9), cmap="magma")
            places[0].set_ylabel(name)
        for axes, title in zip(grid[0][first:], columns, strict=True):
            axes.set_title(title, fontsize=9)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
        if shown is not None:
            figure.colorbar(shown, ax=grid, label=unit)
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def _style_of_figures() -> Iterator[None]:
    """Use the style of reports, independent of the user's matplotlibrc."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def drawing(draw: Callable[[Axes], None], height: float = _SIZE[1]) -> bytes:
    """Draw one pair of axes as SVG; height in inches."""
    buffer = io.BytesIO()
    with _style_of_figures():
        figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
        draw(figure.add_subplot())
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # None leaves each out
        FigureCanvasSVG(figure).print_svg(buffer, metadata=metadata)
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index(b"<svg") :]  # without the DOCTYPE, which refers to a URL
    head, rest = drawing.split(b">", 1)
    # A transparent background shows the colour of the page.
    return head + b">\n" + _style().encode() + rest.replace(b"fill: #ffffff", b"fill: none")


def _style() -> str:
    rules = ["text { font-family: system-ui, sans-serif !important }"]
    rules.append("@media (prefers-color-scheme: dark) {")
    for light, dark in _IN_THE_DARK.items():
        for kind in ("fill", "stroke"):
            rules.append(f'[style*="{kind}: {light}"] {{ {kind}: {dark} !important }}')
    rules.append("}")
    return "<style>\n" + "\n".join(rules) + "\n</style>"
