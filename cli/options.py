"""Options that several commands share, and how measures are printed."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from cli.parameters import DATA, PATH_OR_ID
from imagetok.suggestions import counted

if TYPE_CHECKING:  # slow to import
    from imagetok.codes.schema import LevelUse
    from imagetok.data.unreadable import Unreadable
    from imagetok.training.run_images import SkippedImage

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def device_option() -> Decorator:
    """Return the `--device` option."""
    return click.option(
        "--device",
        help="cpu, cuda or cuda:N; default: a GPU, if any. Rounding can differ between devices.",
    )


def tokenizer_option(*, required: bool = True) -> Decorator:
    """Return the `--tokenizer` option."""
    return click.option(
        "--tokenizer",
        required=required,
        type=PATH_OR_ID,
        help="Tokenizer folder, or Hub id user/name[@revision].",
    )


def data_option(
    what: str = "Images: cifar10:test, a folder, ...", *, required: bool = True
) -> Decorator:
    """Return the `--data` option; `what` is its help text."""
    return click.option("--data", required=required, type=DATA, help=what)


def size_option() -> Decorator:
    """Return the `--size` option."""
    return click.option(
        "--size",
        metavar="HxW|native",
        help="Height x width of the images, as 96x64, or native: each at its own size, cropped to "
        "the tokenizer's stride. Default: the tokenizer's size.",
    )


def batch_size_option() -> Decorator:
    """Return the `--batch-size` option."""
    return click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        help="Images at once: on a CPU in steps of 64, without effect on the result; on a GPU "
        "recorded, and by default as many as pay.",
    )


def workers_option() -> Decorator:
    """Return the `--workers` option."""
    return click.option(
        "--workers",
        type=click.IntRange(min=0),
        help="Processes that read the next images meanwhile; default: on a GPU one less than the "
        "CPUs, for images that are decoded, else 0. Affects speed and memory, never the result.",
    )


def max_skip_option(what: str = "Unreadable images to allow [0].") -> Decorator:
    """Return the `--max-skip` option; `what` is its help text."""
    return click.option("--max-skip", metavar="N|P%", help=what)


def check_option() -> Decorator:
    """Return the `--check` option."""
    return click.option(
        "--check",
        metavar="N|all|off",
        help="Look at N files of each split for damage before training [10000].",
    )


def given(**options: object) -> dict[str, Any]:
    """Return the options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def show_skips(skips: "Sequence[Unreadable | SkippedImage]") -> int:
    """Print each skipped image and the number of each reason; return the exit code, 4 or 0."""
    for skip in skips:
        say(f"skipped {skip.path}: {skip.reason}")
    for reason, count in Counter(skip.reason for skip in skips).most_common():
        say(f"skipped {counted(count, 'image')} in all: {reason}")
    return 4 if skips else 0


def choose_device(name: str | None) -> Any:
    """Return a torch device; see `imagetok.processes.choose_device`, which is slow to import."""
    from imagetok import processes

    return processes.choose_device(name)


def say(text: str) -> None:
    """Print a result; in a distributed run only the first process prints."""
    if os.environ.get("RANK", "0") == "0":
        click.echo(text)


def show_table(values: Mapping[str, object]) -> None:
    """Print names and values as a table of two columns."""
    width = max((len(name) for name in values), default=0)
    for name, value in values.items():
        say(f"  {name:<{width}}  {_text(value)}")


def show_measures(values: Mapping[str, object]) -> None:
    """Print measures and what each means, one a line."""
    from imagetok.evaluation.meanings import meaning_of  # its package is slow to import

    texts = {name: _text(value) for name, value in values.items()}
    width = max(map(len, texts.values()), default=0)
    show_table({k: f"{text:<{width}}  {meaning_of(k)}".rstrip() for k, text in texts.items()})


def show_usage(levels: "Iterable[LevelUse]") -> None:
    """Print the codebook usage of each level: codes used and perplexity."""
    several = list(levels)
    for level, use in enumerate(several):
        where = f"level {level}: " if len(several) > 1 else ""
        codes = counted(use.num_codes, "code")
        say(f"{where}{use.codes_used} of {codes} used, perplexity {use.perplexity:.1f}")


def show_columns(rows: Mapping[str, Mapping[str, object]], *, named: bool = False) -> None:
    """Print a table with a row per entry of `rows`; column names are shown if there are several.

    named: show the name of a single column too. A row may lack some columns. In a table of one
    column, rows without a value are omitted.
    """
    columns = list(dict.fromkeys(name for values in rows.values() for name in values))
    if len(columns) == 1:
        known = {name: values[columns[0]] for name, values in rows.items() if values}
        show_table({"": columns[0], **known} if named else known)
        return
    head = {"": {name: name for name in columns}}
    texts = {
        name: [_text(values.get(column, "")) for column in columns]
        for name, values in (head | dict(rows)).items()
    }
    first = max(len(name) for name in texts)
    widths = [max(len(line[i]) for line in texts.values()) for i in range(len(columns))]
    for name, line in texts.items():
        cells = "  ".join(f"{text:>{width}}" for text, width in zip(line, widths, strict=True))
        say(f"  {name:<{first}}  {cells}")


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
