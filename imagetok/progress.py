"""Progress display: a live bar in a terminal or notebook, otherwise a log line every 10 s."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

logger = logging.getLogger("imagetok")
_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_PICTURES = 0.2  # between updates of a bar in a notebook
_shown: ContextVar[bool] = ContextVar("progress_shown", default=True)


@contextmanager
def progress_shown(shown: bool) -> Iterator[None]:
    """Show progress bars and log lines inside the context, or hide them.

    A False of an outer context takes precedence. Hidden are lines of level INFO, and warnings if
    logging is not set up, because they would go to standard error.
    """
    token = _shown.set(shown and _shown.get())
    try:
        yield
    finally:
        _shown.reset(token)


def _may_be_logged(record: logging.LogRecord) -> bool:
    """Filter of imagetok's logger; see `progress_shown`."""
    if _shown.get():
        return True
    return record.levelno >= logging.WARNING and logger.hasHandlers()


logger.addFilter(_may_be_logged)


class ProgressBar:
    """A progress bar with current values and the remaining time; use it as a context manager.

    start: number of items done before. enabled: set it on one process only. rate_unit: show the
    rate, in this unit ("images/s").
    """

    def __init__(
        self,
        description: str,
        total: int,
        start: int = 0,
        enabled: bool = True,
        rate_unit: str = "",
    ):
        self.description = description
        self.total = total
        self._start = self._done = start
        self._begun = time.monotonic()
        self._said = self._begun
        self._enabled = enabled = enabled and _shown.get()
        self._rate_unit = rate_unit
        self._values = ""
        self._bar: Progress | None = None
        self._output: Any = None  # display handle in a notebook
        self._drawn = 0.0
        self._is_notebook = enabled and Console().is_jupyter
        if enabled and (self._is_notebook or sys.stderr.isatty()):
            self._bar = Progress(
                TextColumn("{task.description}", table_column=Column(no_wrap=True)),
                BarColumn(bar_width=12),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                TimeRemainingColumn(elapsed_when_finished=True, table_column=Column(no_wrap=True)),
                # Fills the rest of the line.
                TextColumn(
                    "{task.fields[values]}",
                    table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
                ),
                console=Console(stderr=True),
                expand=True,
            )
            self._task = self._bar.add_task(description, total=total, completed=start, values="")

    def __enter__(self) -> "ProgressBar":
        if self._bar and self._is_notebook:
            # Progress.start needs ipywidgets and leaves no output in a saved notebook.
            show: Any = import_module("IPython.display").display
            self._output = show(self._bar, display_id=True)
        elif self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._output is not None:
            self._output.update(self._bar)
        elif self._bar:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """Show that `count` more items are finished."""
        self.update(self._done + count)

    def update(self, done: int, values: str = "") -> None:
        """Show that `done` of `total` items are finished.

        values: a short text beside the bar; "" keeps the previous text.
        """
        now, self._done = time.monotonic(), done
        rate = (done - self._start) / max(now - self._begun, 1e-9)
        self._values = values or self._values
        if self._rate_unit:
            self._values = f"{_rate_text(rate)} {self._rate_unit}"
        if self._bar:
            self._bar.update(self._task, completed=done, values=self._values)  # pyright: ignore[reportArgumentType]
            if self._output is not None and now - self._drawn >= _SECONDS_BETWEEN_PICTURES:
                self._drawn = now
                self._output.update(self._bar)
            return
        if not self._enabled or (now - self._said < _SECONDS_BETWEEN_LINES and done < self.total):
            return
        self._said = now
        left = f", {(self.total - done) / rate:.0f} s left" if done < self.total and rate else ""
        logger.info(
            "%s: %d/%d%s%s",
            self.description,
            done,
            self.total,
            f"  {self._values}" if self._values else "",
            left,
        )


def _rate_text(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 1000 else f"{rate:.3g}"
