"""Run folders: starting a run, resuming it, and recording that it is finished."""

import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from imagetok.config import Section, differences, dump_yaml, in_config, load_config, value_at
from imagetok.distributed.peers import shared_work
from imagetok.durable import lock, remove_temporaries, write_bytes, write_json
from imagetok.errors import CheckpointError, ConfigError, ImagetokError
from imagetok.io.json_files import read_json
from imagetok.plugins.records import check_available, read_records, records_of
from imagetok.suggestions import counted
from imagetok.training.checkpoint import has_checkpoints
from imagetok.training.checkpoint_record import FINISHED, read_finished
from imagetok.training.metrics_log import read_json_lines
from imagetok.training.schedules import with_lengths

logger = logging.getLogger("imagetok")
S = TypeVar("S", bound=Section)
CONFIG, METRICS, TIMING, CHECKPOINTS = "config.yaml", "metrics.jsonl", "timing.jsonl", "checkpoints"
PLUGINS = "plugins.json"
"""Which parts of a run are not imagetok's; absent where there are none."""
DAMAGED = "damaged.json"
"""The images that were found damaged before training; the only file that precedes a run."""
PLACES = ("data.root", "data.download", "data.source", "data.test")
"""Keys for locations of data; the data itself is compared by its identity."""
FREE_TO_CHANGE = (
    "train.steps",
    "train.log_every",
    "train.evaluate_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.workers",
    "train.trackers",
    "max_skip",
    "resident",
    *PLACES,
)
"""Keys that may change when a run of any kind is resumed, because they do not affect its steps."""
REPAIRS = (
    "train.learning_rate",
    "train.clip_norm",
    "train.precision",
    "train.mixed_precision",
    "train.cuda_graphs",
    "objective.adversarial.learning_rate",
    "objective.adversarial.lecam",
)
"""Keys that may change to continue a run that diverged, or whose steps cannot be recorded; a single
config then no longer describes it."""


@contextmanager
def open_run(
    folder: Path,
    config: Section,
    *,
    resume: bool,
    is_main: bool,
    free: Collection[str] = (),
) -> Iterator[None]:
    """Lock a run folder and prepare it for this config; the context holds the lock.

    A folder that is not empty needs `resume`. With `resume`, an empty folder, and one whose run
    ended before its first checkpoint, start from step 0. Nothing is changed before the checkpoints
    were checked. Does nothing on other processes than the main one. free: keys that may also
    change for this kind of run. Raises ConfigError for a folder that is not empty or is of another
    config (listing the keys that differ), ResourceError if checkpoints cannot be read,
    CheckpointError if the run had checkpoints that are gone.
    """
    if not is_main:
        yield
        return
    entries = _entries(folder)
    if not resume:
        check_free(folder)
    with lock(folder):
        if (folder / CONFIG).is_file():
            stored = _check_same(folder, config, free)
            if not has_checkpoints(folder / CHECKPOINTS) and not _is_finished(folder, config):
                _start_over(folder, stored.model_dump()["train"])
        elif entries and not (folder / CHECKPOINTS).is_dir():
            raise ConfigError(
                f"{folder}: expected a run folder, found files without {CONFIG}; choose another "
                "--out"
            )
        remove_temporaries(folder)
        (folder / CHECKPOINTS).mkdir(exist_ok=True)
        remove_temporaries(folder / CHECKPOINTS)
        remove_temporaries(folder / "pictures")
        write_bytes(folder / CONFIG, dump_yaml(config).encode())
        if plugins := records_of(config):
            write_json(folder / PLUGINS, {"plugins": plugins})
        yield


def check_free(folder: Path) -> None:
    """Raise ConfigError if a new run cannot begin in a folder, because it holds something."""
    if _entries(folder):
        raise ConfigError(
            f"{folder}: not empty; add --resume to continue its run, or choose another --out"
        )


def _entries(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return [path for path in found if path.name != DAMAGED]


def check_plugins(folder: Path, error: type[ImagetokError] = ConfigError) -> None:
    """Raise `error` where a run was begun with custom parts that are not registered now."""
    if not (folder / PLUGINS).is_file():
        return
    stored = read_json(folder / PLUGINS)
    records = stored.get("plugins") if isinstance(stored, dict) else None
    check_available(read_records(records, str(folder / PLUGINS)), str(folder), error)


def _is_finished(folder: Path, config: Section) -> bool:
    """Return whether the run has reached the number of steps in `config`."""
    found = read_finished(folder)
    return found is not None and found.step == config.model_dump()["train"]["steps"]


def _start_over(folder: Path, train: Mapping[str, Any]) -> None:
    """Empty the logs of a run that ended before its first checkpoint, with a warning.

    Raises CheckpointError if the run went further than that, so that its checkpoints were removed.
    """
    logs = [folder / name for name in (METRICS, TIMING) if (folder / name).is_file()]
    logged = max((int(r["step"]) for log in logs for r in read_json_lines(log)), default=0)
    due = min(train["checkpoint_every"], train["steps"])
    had_some = logged > due or (logged and not (folder / CHECKPOINTS).is_dir())
    if had_some or (folder / FINISHED).is_file():
        raise CheckpointError(
            f"{folder / CHECKPOINTS}: expected checkpoints of a run that reached step {logged:,}, "
            "found none; put them back, or train into a new --out"
        )
    if logged:
        logger.warning(
            "%s: the run has no checkpoint yet; starting again at step 0 and deleting its log of "
            "%s",
            *(folder, counted(logged, "step")),
        )
    for log in logs:
        os.truncate(log, 0)


@contextmanager
def shared_run(
    folder: Path, config: Section, data: Callable[[], Mapping[str, Any]], *, places: Collection[str]
) -> Iterator[None]:
    """Check that all processes of a run agree on folder, config and data before they start.

    data: returns identities of the examples and of the initial weights, by name. places: keys of
    the config that may differ between machines. Raises what `shared_work` raises.
    """
    tree = config.model_dump(mode="json")
    for key in places:
        owner, _, name = key.rpartition(".")
        section = value_at(tree, owner) if owner else tree
        if isinstance(section, dict):
            section.pop(name, None)
    with shared_work({"run folder": str(folder), "config": tree}, data):
        yield


def with_recorded_lengths(config: S, folder: Path, *, resume: bool) -> S:
    """Return the config with which a run continues in its folder.

    Schedules without an explicit length keep the length that the run started with, whatever
    `train.steps` is now; a warning is logged if the two differ.
    """
    if not (resume and (folder / CONFIG).is_file()):
        return config
    stored = load_config(folder / CONFIG, type(config))
    return recorded_lengths(config, stored.model_dump(mode="json"), folder / CONFIG)


def recorded_lengths(config: S, stored: Any, where: Path) -> S:
    """Fill in lengths of schedules that are not explicit from the stored config of the same run.

    stored: the stored config as plain data. where: its file, for the warning.
    """

    def recorded(key: str) -> int | None:
        steps = value_at(stored, key)
        return steps if isinstance(steps, int) else None

    kept = with_lengths(config, recorded)
    asked = config.model_dump(mode="json")
    for key, (new, old) in differences(asked, kept.model_dump(mode="json")).items():
        may_change = key.startswith(REPAIRS)
        remedy = f"--set {key}={new} changes it" if may_change else "another length needs a new run"
        logger.warning("%s stays %d, as recorded in %s; %s", key, old, where, remedy)
    return kept


def exported_step(run: Path) -> int | None:
    """Return the step whose weights became the artifact; None if the run is not finished.

    Raises InputError for a damaged finished.json.
    """
    found = read_finished(run)
    return None if found is None else found.exported_step


def check_config(folder: Path, config: Section, free: Collection[str] = ()) -> None:
    """Raise ConfigError if `config` changes keys of the run in a folder that must not change.

    Called before a run's images are opened, because other settings may mean other images.
    """
    if (folder / CONFIG).is_file():
        _refuse_changes(folder, _changes(folder, config)[1], free)


def _check_same(folder: Path, config: S, free: Collection[str]) -> S:
    """Return the stored config of a run; ConfigError if `config` changes keys that must not."""
    stored, changed = _changes(folder, config)
    for key, (old, new) in changed.items():
        if key.startswith((*REPAIRS, "train.steps")):
            logger.warning(
                "%s: continuing with %s instead of %s", key, in_config(new), in_config(old)
            )
    _refuse_changes(folder, changed, free)
    return stored


def _changes(folder: Path, config: S) -> tuple[S, dict[str, tuple[Any, Any]]]:
    """Return the stored config of a run, and the values (old, new) of the keys that differ."""
    stored = load_config(folder / CONFIG, type(config))
    return stored, differences(stored.whole(), config.whole())


def _refuse_changes(
    folder: Path, changed: Mapping[str, tuple[Any, Any]], free: Collection[str]
) -> None:
    may_change = {*FREE_TO_CHANGE, *free}
    refused = {
        k: v for k, v in changed.items() if k not in may_change and not k.startswith(REPAIRS)
    }
    if refused:
        lines = "\n".join(
            f"  {k}: {in_config(old)} in the folder, {in_config(new)} requested"
            for k, (old, new) in refused.items()
        )
        raise ConfigError(
            f"{folder}: cannot resume with a different config:\n{lines}\n"
            "use the same values, or train into another --out (with --init-from to start from "
            "these weights)"
        )
