"""Reading, describing and checking the folder of a comparison."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from imagetok.artifacts import read_artifact
from imagetok.comparison.plan import PLAN, Trial, method_identity
from imagetok.comparison.results import Comparison, evaluations
from imagetok.config import Section, differences, load_config, validate, value_at
from imagetok.errors import ConfigError, ImagetokError, InputError
from imagetok.io.json_files import Count, as_section, read_json
from imagetok.training.config import TokenizerRun

RESULT = "comparison.json"
MAX_BYTES = 64 << 20


class StoredPlan(Section):
    """The parts of a comparison's plan.json that are read back."""

    seeds: tuple[Count, ...]
    methods: dict[Annotated[str, Field(pattern=r"^[^/\\0]{1,200}$")], dict[str, Any]]
    """Method name -> config, without seed and local paths."""


def is_comparison(folder: Path) -> bool:
    """Return whether a folder is a comparison; a code dataset also has a plan.json."""
    if (folder / RESULT).is_file():
        return True
    try:
        plan = _read(folder / PLAN)
    except InputError:
        return False
    return isinstance(plan, dict) and {"methods", "seeds"} <= plan.keys()


def stored_plan(folder: Path) -> StoredPlan:
    """Read seeds and methods from plan.json; raise InputError if it is damaged."""
    plan = _read(folder / PLAN)
    known = {name: value_at(plan, name) for name in StoredPlan.model_fields}
    stored = as_section(known, StoredPlan, str(folder / PLAN))
    for name, config in stored.methods.items():
        steps = value_at(config, "train.steps")
        if type(steps) is not int or steps < 0:
            raise InputError(
                f"{folder / PLAN}: methods.{name}.train.steps: expected a whole number, found "
                f"{str(steps)[:40]}; damaged"
            )
    return stored


def stored_trials(folder: Path) -> list[Trial]:
    """Return the trials of a comparison, method by method; empty if its plan is damaged."""
    try:
        plan = stored_plan(folder)
    except InputError:
        return []
    return [
        Trial(
            name,
            seed,
            int(config["train"]["steps"]),
            folder / f"{name}.yaml",
            folder / name / f"seed-{seed}",
            folder / name / f"seed-{seed}.log",
        )
        for name, config in plan.methods.items()
        for seed in plan.seeds
    ]


def read_comparison(folder: Path) -> Comparison | None:
    """Read comparison.json; return None if it does not exist, raise InputError if damaged."""
    if not (folder / RESULT).is_file():
        return None
    try:
        return validate(_read(folder / RESULT), Comparison, str(folder / RESULT))
    except ConfigError as error:
        raise InputError(f"{error}; run the same `imagetok compare` command again") from None


def describe_comparison(folder: Path) -> dict[str, Any]:
    """Return seeds, finished runs and mean measures of every method as plain data."""
    plan, result = stored_plan(folder), read_comparison(folder)
    trials = stored_trials(folder)
    methods: dict[str, Any] = {}
    for name in plan.methods:
        folders = {trial.seed: trial.folder for trial in trials if trial.method == name}
        methods[name] = {
            "finished_seeds": [s for s, run in folders.items() if (run / "tokenizer").is_dir()],
            "mean": {},
        }
    for method in result.methods if result is not None else ():
        methods.setdefault(method.name, {})["mean"] = dict(method.mean)
    return {
        "data": result.data if result is not None else None,
        "num_images": result.num_images if result is not None else None,
        "seeds": list(plan.seeds),
        "command": result.command if result is not None else None,
        "methods": methods,
    }


def comparison_faults(folder: Path) -> list[str]:
    """Check the files of the comparison, not of its runs; return one line per fault."""
    try:
        plan = stored_plan(folder)
    except InputError as error:
        return [str(error)]
    faults = []
    for name, identity in plan.methods.items():
        path = folder / f"{name}.yaml"
        try:
            config = load_config(path, TokenizerRun)
        except ConfigError as error:
            faults.append(str(error))
            continue
        changed = differences(json.loads(json.dumps(method_identity(config))), identity)
        if changed:
            faults.append(f"{path}: differs from the config in {PLAN}: {', '.join(changed)}")
    try:
        result = read_comparison(folder)
    except InputError as error:
        return [*faults, str(error)]
    return faults if result is None else faults + _result_faults(folder, result)


def _result_faults(folder: Path, result: Comparison) -> list[str]:
    """Compare comparison.json with the stored runs; return one line per difference."""
    faults = []
    trials = {(trial.method, trial.seed): trial for trial in stored_trials(folder)}
    for method in result.methods:
        for stored in method.trials:
            where = f"{folder / RESULT}: {method.name}, seed {stored.seed}"
            trial = trials.get((method.name, stored.seed))
            if trial is None:
                faults.append(f"{where}: is not in {PLAN}")
            elif stored.status == "finished":
                try:
                    curve = evaluations(trial.folder, trial.steps)
                    fingerprint = read_artifact(trial.folder / "tokenizer").fingerprint
                except (OSError, ValueError, KeyError) as error:
                    message = error if isinstance(error, ImagetokError) else repr(error)
                    faults.append(f"{where}: {message}")
                    continue
                if fingerprint != stored.fingerprint:
                    faults.append(f"{where}: its fingerprint is not that of the run's tokenizer")
                if list(stored.curve) != curve:
                    faults.append(f"{where}: its measures differ from those of the run")
    return faults


def _read(path: Path) -> Any:
    """Read a small JSON file; raise InputError if it cannot be read."""
    try:
        return read_json(path, InputError, MAX_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot read the file: {error.strerror}") from None
