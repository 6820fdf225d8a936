"""The table of a comparison, for Markdown, the report and the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from imagetok.comparison.results import DEFINITIONS, Comparison, MethodResult
from imagetok.evaluation.meanings import meanings_of
from imagetok.io.markdown import block, plain
from imagetok.suggestions import all_of, are, counted


class _Column(NamedTuple):
    title: str
    key: str
    scale: float
    form: str
    best: str = ""
    """`low`, `high`, `use` (high, among codebooks of one size), or neither is better."""


_MEASURES = (
    _Column("MSE x 10^3", "mse", 1e3, ".2f", "low"),
    _Column("PSNR, dB", "psnr_db", 1, ".2f", "high"),
    _Column("SSIM", "ssim", 1, ".3f", "high"),
    _Column("pixel accuracy", "pixel_accuracy", 1, ".4f", "high"),
    _Column("mIoU", "miou", 1, ".3f", "high"),
    _Column("commitment", "commitment", 1, ".4g"),
    _Column("commitment, norm", "commitment_norm", 1, ".4g"),
    _Column("perplexity, batches of 128", "perplexity_batch128", 1, ".1f", "use"),
    _Column("perplexity, all batches of 128", "perplexity_batch128_all", 1, ".1f", "use"),
    _Column("perplexity, batches of 32", "perplexity_batch32", 1, ".1f", "use"),
    _Column("perplexity, test set", "perplexity", 1, ".1f", "use"),
    _Column("codes used", "codes_used", 1, ".0f", "use"),
    _Column("dead codes", "dead_codes", 1, ".0f"),
    _Column("bits per image, log2 K", "bits_per_image", 1, ".0f"),
    _Column("bits per image, order-0 entropy", "entropy_bits_per_image", 1, ".1f"),
    _Column("prior, bits per code", "prior_bits_per_code", 1, ".3f"),
)


def table_of(result: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return header and rows, one row per method; a dash marks a missing value."""
    different = list(result.methods[0].different)
    columns = _columns(result)
    header = ["method", "seeds", *different, *(column.title for column in columns)]
    header += ["images/s, training", "images/s, encoding", "parameters"]
    rows = []
    for method in result.methods:
        row = [method.name, _seeds(method), *(_plain(method.different[k]) for k in different)]
        row += [_cell(method, column) for column in columns]
        rates = (method.train_images_per_second, method.encode_images_per_second)
        row += [_number(value) for value in (*rates, method.parameters)]
        rows.append(row)
    return header, rows


def best_of(result: Comparison) -> dict[str, list[int]]:
    """Return by column of `table_of` the numbers of the methods with the best value.

    Means that are printed alike are ties. Columns in which no direction is better, or in which all
    methods are alike, are left out; so is codebook use among codebooks of several sizes.
    """
    sizes = {method.num_codes for method in result.methods if method.mean}
    found = {}
    for column in _columns(result):
        means = {
            i: float(f"{method.mean[column.key] * column.scale:{column.form}}")
            for i, method in enumerate(result.methods)
            if column.key in method.mean
        }
        if not column.best or len(set(means.values())) < 2:
            continue
        if column.best == "use" and len(sizes) > 1:
            continue
        best = (min if column.best == "low" else max)(means.values())
        found[column.title] = [i for i, value in means.items() if value == best]
    return found


def _columns(result: Comparison) -> list[_Column]:
    """Return the measures that at least one method has."""
    more = [_Column(name, name, 1, ".4g", _better(name)) for name in _follow_up_measures(result)]
    return [c for c in (*_MEASURES, *more) if any(_values(m, c) for m in result.methods)]


def meanings_of_columns(result: Comparison) -> dict[str, str]:
    """Return what the titles of the measured columns mean."""
    columns = {column.title: column.key for column in _columns(result)}
    known = {key: meaning for key in columns.values() for meaning in meanings_of([key]).values()}
    known |= DEFINITIONS
    return {title: known[key] for title, key in columns.items() if key in known}


def _better(distance: str) -> str:
    """Return which direction is better for a measure in the features of a network."""
    high = ("precision", "recall", "rprecision", "rrecall", "inception_score")
    return "high" if distance.startswith(high) else "low"


def markdown(result: Comparison) -> str:
    """Return a comparison in Markdown: the table, notes on the measures, and the command."""
    header, rows = table_of(result)
    lines = [markdown_row(header), rule(len(header)), *(markdown_row(row) for row in rows), ""]
    lines += [f"{plain(sentence)}  " for sentence in notes(result)]
    return "\n".join([*lines, "", *block(result.command, "sh"), ""])


def notes(result: Comparison) -> list[str]:
    """Return the notes on the table: data, seeds, failures, definitions, machine, versions."""
    failed = [
        f"{method.name}, seed {trial.seed}: {trial.reason}."
        for method in result.methods
        for trial in method.trials
        if trial.status == "failed"
    ]
    machine = ", ".join(
        counted(int(value), "core") if name == "cores" else str(value)
        for name, value in result.machine.items()
    )
    versions = ", ".join(f"{name} {value}" for name, value in result.versions.items())
    mean = "mean ± sample standard deviation over " if len(result.seeds) > 1 else ""
    measured = {name for method in result.methods for name in method.mean}
    is_small = "mse" in measured and "ssim" not in measured  # of label maps there is neither
    skipped = max((int(method.mean.get("skipped", 0)) for method in result.methods), default=0)
    left_out = (
        f"; {counted(skipped, 'other')} could not be read and {are(skipped)} left out"
        if skipped
        else ""
    )
    return [
        f"Measured on {all_of(result.num_images, 'image')} of {result.data}; {mean}"
        f"{named_seeds(result.seeds)}{left_out}.",
        *(f"Failed: {text}" for text in failed),
        *(["SSIM needs images of at least 11 x 11 pixels."] if is_small else []),
        "Dead codes never occur in that split. Bits per image are the sum over the codes of an "
        "image of log2 K, or of the order-0 entropy of the codes in the split.",
        "Images/s were measured after training, on one thread, with alternating methods: medians "
        "of whole optimizer steps and of encoding batches of 64, without reading images.",
        *follow_up_notes(result.follow_up or {}),
        f"Machine: {machine}. Versions: {versions}.",
    ]


def named_seeds(seeds: Sequence[int]) -> str:
    """Return `seed 1`, or `the seeds 1, 2 and 3`."""
    *others, last = map(str, seeds)
    return f"the seeds {', '.join(others)} and {last}" if others else f"seed {last}"


def markdown_row(cells: Sequence[str]) -> str:
    """Return one row of a Markdown table; cells are plain text and are escaped."""
    return f"| {' | '.join(map(plain, cells))} |"


def rule(columns: int) -> str:
    """Return the line under the header of a Markdown table."""
    return "|" + "---|" * columns


def spread(mean: float, std: float | None, form: str) -> str:
    """Format `mean ± std`, or only the mean if std is None."""
    return f"{mean:{form}}" if std is None else f"{mean:{form}} ± {std:{form}}"


def _follow_up_measures(result: Comparison) -> list[str]:
    """Return the names of feature distances, as in `imagetok evaluate`."""
    return [] if result.follow_up is None else result.follow_up["measures"]


def follow_up_notes(details: Mapping[str, Any]) -> list[str]:
    """Return the notes on feature distances and on the prior, from the identity of a follow-up."""
    sentences = []
    if details.get("networks"):
        sentences.append(
            f"Feature distances ({', '.join(details['networks'])}): of the reconstructions from "
            f"the test images (names that begin with r){_samples_note(details)}."
        )
    if details.get("prior"):
        model, steps = details["prior"]["model"]["kind"], details["prior"]["train"]["steps"]
        sentences.append(
            f"Prior: the same {model}, trained for {counted(steps, 'step')} on the codes of each "
            f"trial, with its seed. {_selection_note(details)}"
        )
    return sentences


def _selection_note(details: Mapping[str, Any]) -> str:
    """Return a sentence on the codes that select a prior's weights, and those that measure it."""
    selection = details.get("selection")
    if selection is None:  # a comparison of an earlier version
        return (
            "The codes of the test split were its held-out codes, which may select its weights, "
            "and bits per code are measured on them."
        )
    prior = details["prior"]
    patience = prior.get("patience")
    stop = "" if patience is None else f", with a patience of {patience}"
    if prior.get("export") == "best":
        use = f" to select weights (the best evaluation's{stop})"
    elif patience is not None:
        use = f" to end training{stop}; the weights are the last ones"
    else:
        use = ", but select nothing: the weights are the last ones"
    return (
        f"{selection['num_images']:,} of the training images (a share of "
        f"{selection['held_out']:g}) are held out{use}; bits per code are those of the finished "
        "prior, measured once on the "
        f"{counted(details['prior_measured_on']['num_images'], 'image')} of the test split."
    )


def _samples_note(details: Mapping[str, Any]) -> str:
    """Return the end of a sentence on samples and their reference; empty without samples."""
    if not details["num_samples"]:
        return ""
    # Comparisons of earlier versions measured samples against the test images.
    reference = details.get("reference")
    images = "the test images" if reference is None else _reference_note(reference)
    return f", and of {counted(details['num_samples'], 'sample')} of the prior from {images}"


def _reference_note(reference: Mapping[str, Any]) -> str:
    count, total = reference["data_count"], reference.get("data_drawn_from")
    number = "all" if total is None else f"{count:,} of the"
    return f"{number} {counted(total or count, 'image')} of {reference['data']}"


def _cell(method: MethodResult, column: _Column) -> str:
    """Format a method's value, or one value per level."""
    values = _values(method, column)
    if not values:
        return _plain(None)
    named = [f"level {i}: {value}" for i, value in enumerate(values.values())]
    return values[""] if "" in values else "; ".join(named)


def _values(method: MethodResult, column: _Column) -> dict[str, str]:
    """Return formatted values with their deviations by the suffix of the level."""
    values: dict[str, str] = {}
    for level in ["", *(f"_level{i}" for i in range(len(method.num_codes)))]:
        key = f"{column.key}{level}"
        if key in method.mean:
            std = None if column.key == "bits_per_image" else method.std.get(key)  # a constant
            scaled = None if std is None else std * column.scale
            values[level] = spread(method.mean[key] * column.scale, scaled, column.form)
    return values


def _seeds(method: MethodResult) -> str:
    """Format the finished seeds and the number of failed ones."""
    finished = [str(trial.seed) for trial in method.trials if trial.status == "finished"]
    failed = len(method.trials) - len(finished)
    return ", ".join(finished + ([f"{failed} failed"] if failed else []))


def _number(value: float | int | None) -> str:
    return _plain(None) if value is None else f"{value:,.0f}"


def _plain(value: object) -> str:
    return "\N{EN DASH}" if value is None else str(value)
