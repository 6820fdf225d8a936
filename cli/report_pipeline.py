"""A report of runs, samples and measures: one HTML file. No click here."""

import json
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from cli.report_curves import training_section
from cli.report_prior import prior_sections, samples_section
from cli.report_runs import RunFolder, SampleFolder, Sources, open_sources
from cli.report_tokenizer import tokenizer_sections
from imagetok.artifacts import read_artifact
from imagetok.durable import canonical_json
from imagetok.evaluation.records import Record, side_by_side
from imagetok.reporting import Block, Commands, Numbers, Section, Table, write_report
from imagetok.training.config import TokenizerRun
from imagetok.training.run import CONFIG

_HEADLINES = {
    "psnr_db": ("reconstruction, PSNR in dB", "mean over the held-out images"),
    "pixel_accuracy": ("pixel accuracy", "held out"),
    "perplexity": ("perplexity", "held out; K if all codes are used alike"),
    "codes_used": ("codes used", "that occur on the held-out images"),
    "bits_per_code": ("bits per code", "of held-out codes, under the prior"),
}


def make_report(
    paths: Sequence[Path], out: Path, *, num_samples: int, device: torch.device
) -> list[str]:
    """Write the report of runs, folders of samples and files of measures; returns its contents.

    num_samples: drawn of each class from every prior. Raises InputError for a path that is none of
    these, before anything is computed.
    """
    sources = open_sources(paths, device)
    sections = [*_headlines(sources.runs), *sections_of(sources, num_samples)]
    sections.append(_commands_section(sources, paths, out))
    methods = dict.fromkeys(_method(run) for run in sources.runs)
    write_report(out, _title(sources), sections, subtitle=", ".join(methods))
    return [section.title for section in sections]


def sections_of(sources: Sources, num_samples: int) -> list[Section]:
    """Everything but the headlines and commands of a report, in its order."""
    tokenizers = [run for run in sources.runs if run.kind == "tokenizer"]
    priors = [run for run in sources.runs if run.kind == "prior"]
    sections = []
    shown: list[SampleFolder] = []
    for run in priors:
        drawn = [folder for folder in sources.samples if folder.record.prior == run.fingerprint]
        shown += drawn
        name = f" of {run.name}" if len(priors) > 1 else ""
        sections += prior_sections(run, drawn, num_samples, name)
    others = [folder for folder in sources.samples if folder not in shown]
    sections += [samples_section(folder, f", {folder.name}") for folder in others]
    sections += tokenizer_sections(tokenizers)
    if sources.runs:
        sections.append(training_section(sources.runs))
        sections.append(_what_section(sources.runs))
    records = {run.name: record_of_run(run) for run in sources.runs if run.test}
    sections += _measures_sections(records | sources.measures)
    return [*sections, environment_section()]


def _title(sources: Sources) -> str:
    """The runs, or else the folders of samples, or else the files of measures."""
    runs = [run.name for run in sources.runs]
    names = runs or [folder.name for folder in sources.samples] or list(sources.measures)
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _headlines(runs: Sequence[RunFolder]) -> list[Section]:
    """Of one run, or of a tokenizer and a prior together; none of several of a kind."""
    if not runs or len({run.kind for run in runs}) < len(runs):
        return []
    tiles = [
        (label, _headline(name, run), why)
        for run in sorted(runs, key=lambda run: run.kind, reverse=True)  # the tokenizer first
        for name, (label, why) in _HEADLINES.items()
        if run.test.get(name) is not None
    ]
    for run in runs:
        state = "finished" if run.artifact else "not finished yet"
        if run.test.get("step", run.step) != run.step:
            state += f"; the measures are those of step {run.test['step']:,}"
        tiles.append((f"steps of {run.name}" if len(runs) > 1 else "steps", run.step, state))
    return [Section("In numbers", [Numbers(tiles)])]


def _headline(name: str, run: RunFolder) -> object:
    """A held-out measure; codes used beside how many there are."""
    value = run.test[name]
    if name == "codes_used" and "num_codes" in run.test:
        return f"{value:,.0f} of {run.test['num_codes']:,.0f}"
    return value


def _method(run: RunFolder) -> str:
    config = run.config
    if isinstance(config, TokenizerRun):
        return f"{', '.join(config.tokenizer.method)} on {config.data.source}"
    return f"{config.model.kind} prior"


def _what_section(runs: Sequence[RunFolder]) -> Section:
    """What each run is, a column a run."""
    told = [_what(run) for run in runs]
    rows = dict.fromkeys(name for one in told for name in one)
    table = Table(
        ["", *(run.name for run in runs)],
        [[name, *(one.get(name) for one in told)] for name in rows],
    )
    return Section("What it is" if len(runs) == 1 else "What they are", [table])


def _what(run: RunFolder) -> dict[str, str | None]:
    config, train = run.config, run.config.train
    told: dict[str, str | None] = {"kind": config.kind}
    if isinstance(config, TokenizerRun):
        image = config.tokenizer.image
        told |= {
            "method": ", ".join(config.tokenizer.method),
            "network": config.tokenizer.network.kind,
            "data": config.data.source,
            "images": f"{image.mode}, {image.height} x {image.width}",
        }
        if run.tokenizer is not None:
            told["codes"] = ", ".join(f"{h} x {w}" for h, w in run.tokenizer.grids)
            told["codebook, K"] = ", ".join(map(str, run.tokenizer.num_codes))
    else:
        told |= {"method": config.model.kind, "data": config.data.source}
    return told | {
        "batch size": f"{train.batch_size:,}",
        "steps": f"{run.step:,} of {train.steps:,}",
        "seed": str(config.seed),
        "precision": "float32" if train.mixed_precision == "no" else train.mixed_precision,
        "speed, images/s": _median(run, "images_per_second"),
        "memory at the peak, MB": _largest(run, "peak_memory_mb"),
        "fingerprint": run.fingerprint[:16] if run.fingerprint else "not finished yet",
    }


def _median(run: RunFolder, name: str) -> str | None:
    values = sorted(record[name] for record in run.timing if record.get(name))
    return f"{values[len(values) // 2]:.4g}" if values else None


def _largest(run: RunFolder, name: str) -> str | None:
    values = [record[name] for record in run.timing if record.get(name)]
    return f"{max(values):,.0f}" if values else None


def record_of_run(run: RunFolder) -> Record:
    """The held-out measures of a run, with what they belong to."""
    measures = {k: v for k, v in run.test.items() if k not in ("step", "split", "num_images")}
    identity: dict[str, object] = {
        "what": f"{run.kind}, in training",
        "count": run.test.get("num_images"),
    }
    if isinstance(run.config, TokenizerRun):
        data = run.held_out.dataset
        identity["data"] = run.held_out.source
        identity["data_identity"] = None if data is None else data.identity()
        identity["image"] = run.held_out.contract.model_dump(mode="json")
    else:
        # Bits of one tokenizer's codes say nothing about those of another's.
        identity["data"] = run.config.data.test or f"a part of {run.config.data.source}"
        if run.artifact:
            prior = read_artifact(run.artifact, "prior")
            identity["tokenizer"] = prior.architecture["tokenizer_fingerprint"]
    return Record(subject={"step": run.test["step"]}, identity=identity, measures=measures)


def _measures_sections(records: Mapping[str, Record]) -> list[Section]:
    """One table for each identity: numbers measured differently share none."""
    groups: dict[bytes, dict[str, Record]] = {}
    for name, record in records.items():
        groups.setdefault(canonical_json(record["identity"]), {})[name] = record
    blocks: list[Block] = []
    for group in groups.values():
        rows = side_by_side(group)
        identity = next(iter(group.values()))["identity"]
        caption = "\n".join(
            [_subject(name, record) for name, record in group.items()]
            + [f"{key}: {_plain(value)}" for key, value in identity.items()]
        )
        table = [
            [measure, *(values.get(name) for name in group)] for measure, values in rows.items()
        ]
        blocks.append(Table(["measure", *group], table, caption))
    return [Section("Measures", blocks)] if blocks else []


def _subject(name: str, record: Record) -> str:
    told = ", ".join(f"{key} {_plain(value)}" for key, value in record["subject"].items())
    return f"{name}: {told}"


def _plain(value: object) -> str:
    if isinstance(value, str):
        return value
    return "unknown" if value is None else json.dumps(value)


def environment_section() -> Section:
    """What the report was made with."""
    versions = [
        (name, version(name)) for name in ("imagetok", "torch", "transformers", "accelerate")
    ]
    machine = [
        ("python", platform.python_version()),
        ("machine", f"{platform.system()} {platform.machine()}"),
        ("processors", os.cpu_count()),
        ("threads", torch.get_num_threads()),
    ]
    table = Table(["this report was made with", ""], [(n, str(v)) for n, v in versions + machine])
    return Section("Environment", [table])


def _commands_section(sources: Sources, paths: Sequence[Path], out: Path) -> Section:
    commands = [
        shlex.join(["imagetok", "train", str(run.path / CONFIG), "--out", f"{run.path}-again"])
        for run in sources.runs
    ]
    commands.append(shlex.join(["imagetok", "report", *map(str, paths), "--out", str(out)]))
    return Section("Commands", [Commands(commands, "The runs again, and this report.")])
