"""A comparison's folder as it was stored: what it holds, and what is wrong with it."""

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
    """What plan.json holds of a comparison."""

    seeds: tuple[Count, ...]
    methods: dict[Annotated[str, Field(pattern=r"^[^/\\0]{1,200}$")], dict[str, Any]]
    """Configs by name, without seeds and places."""


def is_comparison(folder: Path) -> bool:
    """Whether a folder is of `imagetok compare`; plan.json may also be that of a code dataset."""
    if (folder / RESULT).is_file():
        return True
    try:
        plan = _read(folder / PLAN)
    except InputError:
        return False
    return isinstance(plan, dict) and {"methods", "seeds"} <= plan.keys()


def stored_plan(folder: Path) -> StoredPlan:
    """Seeds and methods; InputError for a damaged plan.json."""
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
    """The runs of a comparison, method by method; none where its plan is damaged."""
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
    """What comparison.json holds; None while there is none, InputError for a damaged one."""
    if not (folder / RESULT).is_file():
        return None
    try:
        return validate(_read(folder / RESULT), Comparison, str(folder / RESULT))
    except ConfigError as error:
        raise InputError(f"{error}; run the same `imagetok compare` again") from None


def describe_comparison(folder: Path) -> dict[str, Any]:
    """Seeds, which runs finished, and the mean measures of every method, in plain data."""
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
    """What is wrong with the files of the comparison itself, one line each; not with its runs."""
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
            faults.append(f"{path}: is not the config of {PLAN}: {', '.join(changed)} differ")
    try:
        result = read_comparison(folder)
    except InputError as error:
        return [*faults, str(error)]
    return faults if result is None else faults + _result_faults(folder, result)


def _result_faults(folder: Path, result: Comparison) -> list[str]:
    """Where comparison.json does not tell what the runs stored."""
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
                    faults.append(f"{where}: names another tokenizer than its run made")
                if list(stored.curve) != curve:
                    faults.append(f"{where}: its measures are not those of its run")
    return faults


def _read(path: Path) -> Any:
    """A small JSON file; InputError where it cannot be read."""
    try:
        return read_json(path, InputError, MAX_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}") from None
