"""`prior.reproduce`: a table or figure of a paper, from training to the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from imagetok.comparison.from_configs import device_for_runs, slots_for, training_command
from imagetok.comparison.plan import Trial
from imagetok.comparison.results import TrialResult, finished_trial
from imagetok.comparison.runner import failed_trial, machine_of, train_trials, versions
from imagetok.comparison.subprocesses import Failure
from imagetok.comparison.table import named_seeds
from imagetok.comparison.trial_distances import check_networks
from imagetok.config import Overrides
from imagetok.data import open_images
from imagetok.durable import lock, write_bytes, write_json
from imagetok.errors import ConfigError, DivergedError, ResourceError
from imagetok.named_configs import find_figure
from imagetok.processes import process_state
from imagetok.progress import progress_shown
from imagetok.reporting import (
    Block,
    Commands,
    ReportSection,
    Table,
    Text,
    glossary,
    write_report,
)
from imagetok.results import Result
from imagetok.signals import StopRequest
from prior.papers.drawings import caption_of, draw
from prior.papers.follow_ups import measure
from prior.papers.plots import Drawing, Drawn
from prior.papers.record import (
    FigureRecord,
    NumberTable,
    drawn_tables,
    figure_row,
    long_rows,
    markdown,
    meanings_of_columns,
    notes_of,
    tables_of,
)
from prior.papers.request import request_for
from prior.papers.stages import TrialModels
from prior.papers.trials import FigurePlan, make_plan


@dataclass(frozen=True, repr=False)
class Reproduction(Result):
    """The result of `reproduce`: the numbers and drawings of one table or figure."""

    folder: Path
    """Folder with record.json, table.md, report.html and the drawings."""
    record: FigureRecord
    """The printed numbers beside the ones found."""
    data: Mapping[str, str]
    """Data set -> its name in texts."""
    failures: Mapping[Trial, Failure]
    """Trials that failed, other than by diverging where the paper reports that too."""

    @property
    def exit_code(self) -> int:
        """0, or the exit code of the first failed trial; 5 if its process was killed."""
        codes = [failure.code for failure in self.failures.values()]
        return (codes[0] if codes[0] > 0 else ResourceError.exit_code) if codes else 0

    def title(self) -> str:
        record = self.record
        return f"{record.paper}, {record.source}: {record.title}, in {self.folder}"

    def rows(self) -> dict[str, object]:
        """Return the printed and found numbers, those behind drawings, deviations, failures."""
        found: dict[str, object] = dict(long_rows(self.record, self.data))
        for header, rows in drawn_tables(self.record, self.data):
            found |= {
                f"{header[0]}, {row[0]}: {name}": value
                for row in rows
                for name, value in zip(header[1:], row[1:], strict=True)
            }
        if self.record.settings:
            found["not the paper's settings"] = ", ".join(self.record.settings)
        for trial, failure in self.failures.items():
            found[f"failed: {trial.method}, seed {trial.seed}"] = failure.message
        return found

    def pictures(self) -> dict[str, np.ndarray]:
        """Return the drawings by the name of their file."""
        files = sorted(self.folder.glob("*.png"))
        return {path.stem: np.array(Image.open(path).convert("RGB")) for path in files}


def reproduce(
    name: str,
    out: Path | str | None = None,
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    set: Overrides = (),
    prior_set: Overrides = (),
    features: Sequence[str] = (),
    num_samples: int | None = None,
    download: bool = False,
    jobs: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Reproduction:
    """Make a table or figure of a paper: train, measure and draw what it shows.

    name: such as papers/edvae/table-1; `imagetok configs papers` lists them. out: the folder of the
    paper, by default runs/papers-edvae for this name. Its folder `runs` holds every trained
    tokenizer, so that other tables and figures made in it train none twice, and a call that was
    interrupted continues. The table or figure itself is in a folder of its own: record.json and
    table.md with every number of the paper beside the one found, drawings (PNG), report.html.

    only: names of data sets and methods to restrict it to. seeds: empty for the paper's. set,
    prior_set: settings to change in the configs of all tokenizers and of the prior; the result says
    that they are not the paper's. features: networks for distances in place of the paper's, such
    as "inception=FILE" for its weights. num_samples: samples of each prior; None is 50,000, or the
    number of training images if that is smaller. download: download data sets that can be. jobs,
    device: as for `imagetok.compare`.

    Raises ConfigError for an unknown name and invalid settings, and if the folder holds a run with
    other settings; InputError and ResourceError, before anything is trained, if images or
    weights of a network are missing. Failed trials are listed in the result's `failures`.

    >>> found = prior.reproduce("papers/edvae/table-1", only=["cifar10"], download=True)
    """
    figure = find_figure(name)
    if process_state().num_processes > 1:
        raise ConfigError("reproduce starts its own processes; run it without a launcher")
    chosen = device_for_runs(device)
    folder = Path(figure.folder if out is None else out)
    request = request_for(
        figure,
        seeds=seeds,
        only=only,
        settings=set,
        prior_settings=prior_set,
        features=features,
        num_samples=num_samples,
        download=download,
    )
    plan = make_plan(request, folder)
    with progress_shown(progress):
        return _reproduce(plan, jobs, chosen)


def _reproduce(plan: FigurePlan, jobs: int | None, device: torch.device) -> Reproduction:
    identities = _identities(plan)
    plan.check_folder()
    check_networks(plan.features, plan.trials(), device)
    with lock(plan.folder), StopRequest() as stop:
        plan.check_folder()
        plan.write_configs()
        slots = slots_for(jobs, device)
        trials = plan.trials()
        failures = train_trials(trials, lambda t: training_command(t, device), slots, stop)
        models = TrialModels([trial for trial in trials if trial not in failures], device)
        more, late, measured = measure(plan, models, slots, device.type, stop)
        results = {
            trial: finished_trial(trial, models[trial], more.get(trial, {}))
            if trial in models
            else failed_trial(trial, failures[trial])
            for trial in trials
        }
        drawings = {
            data: drawing
            for data in plan.images
            if (drawing := draw(Drawn(plan, data, models, results, stop.check_here))) is not None
        }
        numbers = {data: drawing.numbers for data, drawing in drawings.items() if drawing.numbers}
        record = _record(plan, results, identities, measured, numbers, device)
        _write(plan, record, drawings)
    expected = _diverged_as_printed(plan, failures)
    rest = {t: failure for t, failure in (failures | late).items() if t not in expected}
    return Reproduction(plan.out, record, plan.figure.data, rest)


def _identities(plan: FigurePlan) -> dict[str, dict[str, str]]:
    """Return the identities of all images; so missing ones are found before anything is trained."""
    return {
        name: {
            split: open_images(its.data, split, its.image).identity() for split in ("train", "test")
        }
        for name, its in plan.images.items()
    }


def _record(
    plan: FigurePlan,
    results: Mapping[Trial, TrialResult],
    identities: dict[str, dict[str, str]],
    measured: dict[str, Any],
    numbers: dict[str, NumberTable],
    device: torch.device,
) -> FigureRecord:
    figure = plan.figure
    return FigureRecord(
        figure=figure.name,
        title=figure.sheet.title,
        paper=figure.paper,
        source=figure.sheet.source,
        about=figure.about,
        notes=figure.sheet.notes,
        command=plan.command,
        settings=plan.deviations,
        seeds=plan.seeds,
        identities=identities,
        network=plan.other_network,
        measured=measured,
        machine=machine_of(device),
        versions=versions(),
        columns=figure.sheet.columns,
        rows=tuple(figure_row(planned, figure.sheet.columns, results) for planned in plan.runs),
        drawn=numbers,
    )


def _diverged_as_printed(plan: FigurePlan, failures: Mapping[Trial, Failure]) -> set[Trial]:
    """Return the trials that diverged where the paper reports that they do."""
    return {
        trial
        for planned in plan.runs
        if "diverged" in planned.run.expected.values()
        for trial in planned.trials
        if trial in failures and failures[trial].code == DivergedError.exit_code
    }


def _write(plan: FigurePlan, record: FigureRecord, drawings: Mapping[str, Drawing]) -> None:
    out, titles = plan.out, plan.figure.data
    out.mkdir(exist_ok=True)
    for name, drawing in drawings.items():
        write_bytes(out / f"{name}.png", drawing.png)
    for name in titles.keys() - drawings.keys():
        (out / f"{name}.png").unlink(missing_ok=True)  # of an earlier call, and not of this record
    write_bytes(out / "table.md", markdown(record, titles).encode())
    explained = caption_of(plan.figure.sheet.kind, len(record.seeds))
    shown = [
        block
        for name, drawing in drawings.items()
        for block in (Text(f"{titles[name]}: {explained}."), *drawing.blocks)
    ]
    tables: list[Block] = [Table(header, rows) for header, rows in tables_of(record, titles)]
    tables += glossary(meanings_of_columns(record)) if record.rows else []
    notes = [Text(note) for note in notes_of(record)]
    sections = [
        *([ReportSection(record.source, shown)] if shown else []),
        *([ReportSection("Numbers", tables)] if tables else []),
        ReportSection("Notes", notes),
        ReportSection("Command", [Commands([record.command])]),
    ]
    title = f"{record.paper}, {record.source}: {record.title}"
    what = "imagetok reproduce: the paper's numbers beside those found"
    trained = f", with {named_seeds(record.seeds)}" if record.rows else ""
    measured = f"Measured on {', '.join(titles[name] for name in plan.images)}{trained}"
    write_report(out / "report.html", title, sections, what, measured)
    write_json(out / "record.json", record.model_dump(mode="json"))
