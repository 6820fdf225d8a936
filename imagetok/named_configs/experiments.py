"""Expanding a sheet into experiments: a complete config each, with the numbers of its paper."""

import copy
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from imagetok.config import validate
from imagetok.errors import ConfigError
from imagetok.named_configs.sheets import ConfigChanges, Sheet, SheetData, SheetPriorUse, SheetTable

ORDER = {
    "": ("kind", "seed", "data", "tokenizer", "conditional"),
    "tokenizer": ("image", "network", "quantizer", "quantizers", "latent", "likelihood"),
    "objective": ("weights", "temperature"),
    "data": ("source",),
    "train": (
        *("steps", "batch_size", "accumulation", "learning_rate", "optimizer", "clip_norm"),
        *("precision", "mixed_precision", "deterministic", "compile", "ema_decay"),
        *("log_every", "evaluate_every", "checkpoint_every"),
        *("workers", "trackers"),
    ),
}
"""Order in which the keys of a config's sections are written; other keys follow."""


@dataclass(frozen=True)
class Experiment:
    """A config that a sheet describes, with its source and expected numbers."""

    name: str
    """Name of the config, such as papers/edvae/cifar10/edvae-codes-128."""
    path: str
    """Alias of the config, which is also in the name of the run folder in `commands`."""
    what: str
    """Method, data set and changed settings as text."""
    source: str
    """The paper and the place in it."""
    expected: Mapping[str, str]
    """Numbers of the paper, by measure."""
    notes: str
    """What the paper does not specify, and deviations from it."""
    commands: tuple[str, ...]
    """Commands that run the experiment."""
    tree: dict[str, Any]
    """The complete config as plain data."""

    def header(self) -> str:
        """Return the comment lines above the config."""
        expected = ", ".join(f"{name}: {value}" for name, value in self.expected.items())
        numbers = f"expected {expected}" if expected else "no numbers are given"
        about = f"{self.what} ({self.source}); {numbers}. {self.notes}".strip()
        lines = textwrap.wrap(about, 98, break_on_hyphens=False)
        return "".join(f"# {line}\n" for line in [*lines, *(f"  {c}" for c in self.commands)])


def expand(tree: dict[str, Any], group: str, where: str) -> "ExpandedSheet":
    """Check a sheet given as plain data.

    group: prefix of the names, such as papers/edvae. where: the sheet's file, for messages.
    Raises ConfigError for an invalid sheet.
    """
    return ExpandedSheet(validate(tree, Sheet, where), group)


@dataclass(frozen=True)
class ExpandedSheet:
    """A sheet, and everything that it describes, as complete configs."""

    sheet: Sheet
    group: str
    """Prefix of the experiments' names."""

    def experiments(self) -> list[Experiment]:
        """Return every experiment of the sheet's tables and sweeps."""
        return [*self.of_tables(), *self.of_sweeps()]

    def of_tables(self) -> Iterator[Experiment]:
        """Yield the tokenizer of each table row, and the prior trained on it."""
        for table in self.sheet.tables:
            for data, rows in table.rows.items():
                for method, row in rows.items():
                    yield from self._of_row(table, data, method, row)

    def of_sweeps(self) -> Iterator[Experiment]:
        """Yield each point of the sweeps that differs from the method's own experiment."""
        for sweep in self.sheet.sweeps:
            for data, method in ((d, m) for d in sweep.data for m in sweep.methods):
                base = self.tokenizer(data, method, sweep.source)
                for point, settings in sweep.points.items():
                    tree = changed(base.tree, settings)
                    if tree == base.tree:
                        continue
                    name = f"{base.name}-{point}"
                    path = sweep.path.format(data=data, name=f"{method}-{point}")
                    changes = ", ".join(f"{key}={value}" for key, value in settings.items())
                    row = sweep.rows.get(data, {}).get(point, "")
                    yield replace(
                        base,
                        name=name,
                        path=path,
                        what=f"{base.what}, {changes}",
                        expected=printed_numbers(
                            sweep.columns, row, f"{sweep.source}, {data}, {point}"
                        ),
                        notes=joined(sweep.notes, base.notes),
                        commands=(_train(name, path, self.sheet.data[data]),),
                        tree=tree,
                    )

    def _of_row(self, table: SheetTable, data: str, method: str, row: str) -> Iterator[Experiment]:
        use = table.prior
        columns = (*table.columns, *(use.columns if use else ()))
        numbers = printed_numbers(columns, row, f"{table.source}, {data}, {method}")
        own = {name: numbers[name] for name in table.columns if numbers}
        path = _path(table, data, method)
        made = self.tokenizer(data, method, table.source)
        command = _train(made.name, path, self.sheet.data[data])
        made = replace(made, path=path, commands=(command,), expected=own)
        if use is None or (use.methods and method not in use.methods):
            yield made
            return
        later = {name: numbers[name] for name in use.columns if numbers}
        title = self.sheet.priors[use.use].title
        sampled = {f"{name} with a {title} prior": value for name, value in later.items()}
        yield replace(made, expected=own | sampled)
        prior = self._prior(data, made, use, _path(table, data, f"{use.use}-{method}"))
        yield replace(prior, source=self._source(use.source or table.source), expected=later)

    def tokenizer(self, data: str, method: str, source: str) -> Experiment:
        """Return a method's own experiment, without numbers; source: a place in the paper."""
        its, tree = self.sheet.methods[method], self.sheet.base
        for settings in (self.sheet.data[data].set, its.set, its.on.get(data, {})):
            tree = changed(tree, settings)
        return Experiment(
            name=f"{self._folder(data)}/{method}",
            path="",
            what=f"{its.title} on {self.sheet.data[data].title}",
            source=self._source(source),
            expected={},
            notes=joined(its.notes, self.sheet.notes),
            commands=(),
            tree=_in_order(tree),
        )

    def _prior(self, data: str, tokenizer: Experiment, use: SheetPriorUse, path: str) -> Experiment:
        prior, run = self.sheet.priors[use.use], _run_folder(tokenizer.path)
        places = {"tokenizer": f"{run}/tokenizer", "data.source": f"{run}/codes"}
        images = f"{tokenizer.tree['data']['source']}:train"
        encode = f"imagetok encode --tokenizer {run}/tokenizer --data {images} --shards {run}/codes"
        folder, _, method = tokenizer.name.rpartition("/")
        name = f"{folder}/{use.use}-{method}"
        return replace(
            tokenizer,
            name=name,
            path=path,
            what=f"{prior.title} prior of {tokenizer.what}",
            notes=prior.notes,
            commands=(encode, f"imagetok train {name} --out {_run_folder(path)}"),
            tree=_in_order(changed(self.prior(data, use.use), places)),
        )

    def prior(self, data: str, name: str) -> dict[str, Any]:
        """Return a prior's config on a data set, without its tokenizer and codes."""
        prior = self.sheet.priors[name]
        return changed(prior.base, prior.on.get(data, {}))

    def _folder(self, data: str) -> str:
        """Return the prefix of names on a data set; a sheet may be named after its only one."""
        return self.group if self.group.endswith(f"/{data}") else f"{self.group}/{data}"

    def _source(self, place: str) -> str:
        return f"{self.sheet.title}, {place}"


def joined(*notes: str) -> str:
    """Join the notes that are not empty."""
    return " ".join(filter(None, notes))


def _path(table: SheetTable, data: str, name: str) -> str:
    return table.paths.get(f"{data}/{name}") or table.path.format(data=data, name=name)


def _run_folder(path: str) -> str:
    return f"runs/{path.replace('/', '-')}"


def _train(name: str, path: str, data: SheetData) -> str:
    download = "--set data.download=true " if data.is_downloaded else ""
    return f"imagetok train {name} {download}--out {_run_folder(path)}"


def printed_numbers(columns: tuple[str, ...], row: str, where: str) -> dict[str, str]:
    """Split a row of printed numbers by column; empty for an empty row, ConfigError otherwise.

    where: the place of the row, for the message.
    """
    values = [value.strip() for value in row.split(",")] if row else []
    if values and len(values) != len(columns):
        raise ConfigError(f"{where}: expected {len(columns)} numbers in the row, found {row!r}")
    return dict(zip(columns, values, strict=True)) if values else {}


def changed(tree: Mapping[str, Any], settings: ConfigChanges) -> dict[str, Any]:
    """Return a copy of the tree in which the value of each dotted key is replaced."""
    result = copy.deepcopy(dict(tree))
    for key, value in settings.items():
        *sections, name = key.split(".")
        place = result
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = copy.deepcopy(value)
    return result


def _in_order(tree: dict[str, Any], section: str = "") -> dict[str, Any]:
    known = [name for name in ORDER.get(section, ()) if name in tree]
    order = [*known, *(name for name in tree if name not in known)]
    return {
        name: _in_order(tree[name], name)
        if not section and isinstance(tree[name], dict) and name in ORDER
        else tree[name]
        for name in order
    }
