"""Run folders: how a run starts, goes on, and says that it is finished."""

import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from imagetok.config import Section, differences, dump_yaml, load_config, value_at
from imagetok.durable import lock, remove_temporaries, write_bytes
from imagetok.errors import ConfigError, InputError
from imagetok.files import read_regular
from imagetok.peers import shared_work
from imagetok.training.schedules import with_lengths

logger = logging.getLogger("imagetok")
S = TypeVar("S", bound=Section)
CONFIG, FINISHED = "config.yaml", "finished.json"
PLACES = ("data.root", "data.download", "data.source", "data.test")
"""Keys that say where things lie: what lies there is compared by hash."""
FREE_TO_CHANGE = (
    "train.steps",
    "train.log_every",
    "train.evaluate_every",
    "train.checkpoint_every",
    "train.workers",
    "train.trackers",
    *PLACES,
)
"""Keys that a resumed run of any kind may change without becoming another run."""
REPAIRS = ("train.learning_rate", "train.clip_norm", "train.mixed_precision")
"""Keys that may change to save a run that diverged; it is then no longer that of one config."""


@contextmanager
def open_run(
    folder: Path,
    config: Section,
    *,
    resume: bool,
    is_main: bool,
    free: Collection[str] = (),
) -> Iterator[None]:
    """Hold a run folder for this config.

    A non-empty folder is refused unless `resume`; with `resume`, one of another config is refused
    with the keys that differ, and an empty one starts fresh. Other processes than the main one
    only pass through. free: keys that this kind of run may change, too.
    """
    if not is_main:
        yield
        return
    entries = list(folder.iterdir()) if folder.is_dir() else []
    if entries and not resume:
        raise ConfigError(
            f"{folder}: not empty; add --resume to continue the run there, or choose another --out"
        )
    with lock(folder):
        if (folder / CONFIG).is_file():
            _check_same(folder, config, free)
        elif entries and not (folder / "checkpoints").is_dir():
            raise ConfigError(
                f"{folder}: holds files but no run ({CONFIG} is missing); choose another --out"
            )
        remove_temporaries(folder)
        (folder / "checkpoints").mkdir(exist_ok=True)
        remove_temporaries(folder / "checkpoints")
        remove_temporaries(folder / "pictures")
        write_bytes(folder / CONFIG, dump_yaml(config).encode())
        yield


@contextmanager
def shared_run(
    folder: Path, config: Section, data: Callable[[], Mapping[str, Any]], *, places: Collection[str]
) -> Iterator[None]:
    """A run that its processes share: before the folder is touched, all must agree.

    data: what identifies the examples and the weights to start from. places: keys of the config
    whose values may differ from machine to machine. Raises what `shared_work` raises.
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
    """The config of a run as it goes on in its folder.

    Schedules whose length was not given keep the length that the run started with, whatever
    `train.steps` is now, and the log says so where the two differ.
    """
    if not (resume and (folder / CONFIG).is_file()):
        return config
    stored = load_config(folder / CONFIG, type(config))
    return recorded_lengths(config, stored.model_dump(mode="json"), folder / CONFIG)


def recorded_lengths(config: S, stored: Any, where: Path) -> S:
    """The config with lengths that were not given taken from a stored tree of one like it."""

    def recorded(key: str) -> int | None:
        steps = value_at(stored, key)
        return steps if isinstance(steps, int) else None

    kept = with_lengths(config, recorded)
    asked = config.model_dump(mode="json")
    for key, (new, old) in differences(asked, kept.model_dump(mode="json")).items():
        may_change = key.startswith(REPAIRS)
        remedy = f"--set {key}={new} changes it" if may_change else "another length is another run"
        logger.warning("%s stays %d, as recorded in %s; %s", key, old, where, remedy)
    return kept


def exported_step(run: Path) -> int | None:
    """The step whose weights became the artifact; None while the run goes on.

    Raises InputError for a damaged finished.json.
    """
    if not (run / FINISHED).is_file():
        return None
    try:
        found = json.loads(read_regular(run / FINISHED))
        return int(found.get("exported", found["step"]))  # older runs export the last
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{run / FINISHED}: damaged ({error!r})") from None


def test_record(records: Sequence[Mapping[str, Any]], exported: int | None) -> dict[str, Any]:
    """The measures on the held-out split of the exported step, or else the last; empty if none."""
    tests = [record for record in records if record.get("split") == "test"]
    of_exported = [record for record in tests if record.get("step") == exported]
    found = of_exported or tests
    return dict(found[-1]) if found else {}


def _check_same(folder: Path, config: Section, free: Collection[str]) -> None:
    stored = load_config(folder / CONFIG, type(config))
    changed = differences(stored.model_dump(mode="json"), config.model_dump(mode="json"))
    for key, (old, new) in changed.items():
        if key.startswith((*REPAIRS, "train.steps")):
            logger.warning("%s: goes on with %r instead of %r", key, new, old)
    may_change = {*FREE_TO_CHANGE, *free}
    refused = {
        k: v for k, v in changed.items() if k not in may_change and not k.startswith(REPAIRS)
    }
    if refused:
        lines = "\n".join(
            f"  {k}: {old!r} there, {new!r} asked" for k, (old, new) in refused.items()
        )
        raise ConfigError(
            f"{folder}: cannot resume with another config:\n{lines}\n"
            "give the same values, or train into another --out (with --init-from to start from "
            "these weights)"
        )
