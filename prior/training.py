"""Training of a prior on code datasets: builds the job that the training loop runs."""

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from imagetok import seeding
from imagetok.artifacts import check_manifest, read_artifact
from imagetok.codes.fingerprint import check_same_grids, check_same_tokenizer
from imagetok.codes.merge import merged_parts
from imagetok.codes.reader import CodeBatch, CodeDataset, open_codes
from imagetok.config import differences_shown, load_config, validate
from imagetok.data.class_names import ClassMatch, both_lists, match_classes
from imagetok.durable import canonical_json
from imagetok.errors import ConfigError, ShardError
from imagetok.hub import same_commit
from imagetok.images import pixels_text
from imagetok.io.url_secrets import public_url
from imagetok.processes import all_reduce, device_of, process_state
from imagetok.training.batch_order import BatchedDataset, EpochDataset
from imagetok.training.best_weights import WeightSelection
from imagetok.training.config import TrainConfig
from imagetok.training.divergence import DivergenceLimits
from imagetok.training.facts import RunFacts, count_parameters
from imagetok.training.job import Job, build_accelerator
from imagetok.training.loop import train
from imagetok.training.run_folder import CONFIG, PLACES, open_run, shared_run, with_recorded_lengths
from imagetok.training.schedules import Value
from imagetok.training.step_output import StepOutput
from prior.base import Prior, bits_per_code, negative_log_likelihood
from prior.build import build_prior
from prior.code_views import COUNTED_BATCH, OneViewAnEpoch, first_views, samples_of
from prior.config import CodesConfig, PriorConfig, PriorRun
from prior.ngram_baselines import collapse_in_words, ngram_baselines, verdict_in_words
from prior.resident_codes import ResidentCodes, make_resident_codes
from prior.sequence import Codes
from prior.stepper import NO_LABEL

logger = logging.getLogger("imagetok")
EVALUATION_BATCH = 128
FREE_TO_CHANGE = ("patience", "export", "tokenizer")
"""Keys that may change when a run is resumed; the tokenizer is compared by its fingerprint."""


class CodeSubset:
    """A subset of a code dataset, with labels as another one numbers them if `classes` is given.

    note: part of its identity; a fact on which a run depends besides the samples.
    """

    def __init__(
        self,
        dataset: CodeDataset,
        indices: Sequence[int],
        classes: ClassMatch | None = None,
        note: str = "",
    ):
        self.dataset = dataset
        self.indices = indices
        self.classes = classes
        self.note = note

    def __len__(self) -> int:
        return len(self.indices)

    def identity(self) -> str:
        """Return an identity of the dataset's content, the chosen indices and the note."""
        chosen = hashlib.sha256(canonical_json(list(self.indices))).hexdigest()
        return f"{self.dataset.manifest.root}/{chosen}{self.note}"

    def __getitems__(self, indices: list[int]) -> CodeBatch:
        """Read the samples with these indices as one batch."""
        batch = self.dataset[[self.indices[i] for i in indices]]
        if self.classes is None:
            return batch
        return batch._replace(labels=self.classes.renumbered(batch.labels))

    def batches(self) -> Iterator[Codes]:
        """Yield the codes of all samples, in order."""
        for start in range(0, len(self), COUNTED_BATCH):
            yield self.__getitems__(list(range(start, min(start + COUNTED_BATCH, len(self))))).codes


def train_prior(
    config: PriorRun,
    run: Path,
    *,
    resume: bool = False,
    init_from: Path | str | None = None,
    device: str | None = None,
) -> dict[str, float | int]:
    """Train the prior of a config in the folder `run`; return the last held-out measures.

    run: folder for config.yaml, metrics.jsonl, timing.jsonl, checkpoints/ and finally prior/, which
    includes the tokenizer. resume, init_from, device: as for a tokenizer.

    Raises ShardError for codes of another tokenizer than the config's, and the errors of
    `loop.train`.
    """
    accelerator = build_accelerator(config.train, run, device)
    logger.info(
        "run folder: %s, processes: %d, device: %s",
        run,
        accelerator.num_processes,
        accelerator.device,
    )
    config = with_recorded_lengths(with_commit(config, run, resume), run, resume=resume)
    job = job_of(config, run, init_from)  # raises for bad input before the folder is changed
    is_main = accelerator.is_main_process
    with (
        shared_run(run, config, job.inputs, places=(*PLACES, "tokenizer")),
        open_run(run, config, resume=resume, is_main=is_main, free=FREE_TO_CHANGE),
    ):
        logger.info("%s", job.facts)
        return train(
            job,
            settings_of(config),
            accelerator=accelerator,
            run=run,
            seed=config.seed,
            unit="images",
            save_first=init_from is not None,
        )


def settings_of(config: PriorRun) -> TrainConfig:
    """Return the settings of the loop, among them those that the config has under former names."""
    is_compiled = config.compile or config.train.compile
    return config.train.model_copy(update={"compile": is_compiled})


def with_commit(config: PriorRun, run: Path, resume: bool) -> PriorRun:
    """Pin a tokenizer on the Hub to a commit in the config; a resumed run keeps its commit."""
    tokenizer = config.tokenizer
    if resume and (run / CONFIG).is_file():
        tokenizer = same_commit(tokenizer, load_config(run / CONFIG, PriorRun).tokenizer)
    origin = read_artifact(tokenizer, "tokenizer").origin
    return config.model_copy(update={"tokenizer": origin})


class CodeForm(NamedTuple):
    """The codes that a prior models, without the codes themselves."""

    fingerprint: str
    """Fingerprint of the codes' tokenizer; "" while it does not exist."""
    num_codes: tuple[int, ...]
    """Codebook size of each level, coarse to fine."""
    grids: tuple[tuple[int, int], ...]
    """Grid (h, w) of each level."""
    pixels: str
    """Size and mode of the images."""
    class_names: tuple[str, ...] | None
    """Names of the classes; empty if unlabelled, None if unknown."""


def job_of(config: PriorRun, run: Path, init_from: Path | str | None) -> Job:
    """Return the job of a config for the run folder `run`; raises what `train_prior` raises."""
    tokenizer = read_artifact(config.tokenizer, "tokenizer")
    check_manifest(tokenizer)  # now rather than at the end, when it is embedded
    training, held_out = open_data(config, tokenizer.codes_fingerprint)
    dataset = training.dataset
    job, started = job_on(config, form_of(dataset), training, init_from)
    baselines = ngram_baselines(dataset.num_codes, training.batches(), held_out.batches())
    fewest = [math.inf] * len(baselines)
    for level, use in enumerate(dataset.manifest.usage):
        if (words := collapse_in_words(use)) is not None:
            logger.warning("%s%s", _of_level(level, baselines), words)

    def evaluate(model: nn.Module, step: int, check: Callable[[], None]) -> dict[str, float | int]:
        bits = evaluate_bits(cast(Prior, model), held_out, check)
        for level, (b, baseline) in enumerate(zip(bits, baselines, strict=True)):
            words = verdict_in_words(b, baseline.unigram, baseline.bigram, fewest[level])
            fewest[level] = min(fewest[level], b)
            if words is not None:
                logger.warning("step %d: %s%s", step, _of_level(level, baselines), words)
        by_name = {
            "bits_per_code": bits,
            "order0_bits_per_code": [b.unigram for b in baselines],
            "order1_bits_per_code": [b.bigram for b in baselines],
        }
        return {"num_images": len(held_out), **code_measures(by_name, dataset)}

    def export(model: nn.Module, measures: dict[str, float | int]) -> None:
        named = {f"held-out {name}": value for name, value in measures.items()}
        cast(Prior, model).save_pretrained(run / "prior", config.tokenizer, named)

    def kept_on(device: torch.device, check: Callable[[], None]) -> ResidentCodes | None:
        if isinstance(training, OneViewAnEpoch):
            return None
        return make_resident_codes(training, device, config.resident, check)

    assert job.facts is not None
    return replace(
        job,
        kept_on=kept_on,
        inputs=lambda: {
            "tokenizer": tokenizer.fingerprint,
            "training codes": training.identity(),
            "held-out codes": held_out.identity(),
            "weights to start from": started,
        },
        evaluate=evaluate,
        export=export,
        artifact=run / "prior",
        facts=replace(job.facts, images=len(training), held_out=len(held_out)),
    )


def form_of(dataset: CodeDataset) -> CodeForm:
    """Return the form of a dataset's codes."""
    plan = dataset.plan
    return CodeForm(
        dataset.fingerprint,
        dataset.num_codes,
        dataset.grids,
        pixels_text(plan.image),
        plan.class_names,
    )


def job_on(
    config: PriorRun,
    form: CodeForm,
    dataset: BatchedDataset | EpochDataset,
    init_from: Path | str | None = None,
) -> tuple[Job, str]:
    """Return a job that measures and writes nothing, and the fingerprint of its initial weights.

    dataset: batches of codes of this form. init_from: as for `train_prior`.
    """
    classes = (form.class_names or ()) if config.conditional else ()
    architecture = validate(
        {
            "tokenizer_fingerprint": form.fingerprint,
            "num_codes": form.num_codes,
            "grids": form.grids,
            "num_classes": len(classes),
            "class_names": classes,
            "label_dropout": config.label_dropout,
            "model": config.model.model_dump(),
        },
        PriorConfig,
        f"a prior on {config.data.source}",
    )
    prior, started = _initial(config, architecture, init_from)
    uniform = math.log2(max(2, *form.num_codes))
    facts = replace(
        facts_without_codes(config),
        class_names=None if form.class_names is None else architecture.class_names,
        pixels=form.pixels,
        num_codes=form.num_codes,
        grids=form.grids,
        parameters=count_parameters(prior),
    )
    job = Job(
        model=prior,
        dataset=dataset,
        loss=loss_function(config, architecture.num_classes),
        update=lambda model, sums, draw: {},
        describe=lambda described: {},
        evaluate=lambda model, step, check: {},
        export=lambda model, measures: None,
        artifact=Path("nowhere"),
        facts=facts,
        # Under a uniform distribution a code has log2 K bits.
        limits=DivergenceLimits("bits_per_code", most=10 * uniform, noticed=uniform),
        selection=WeightSelection("bits_per_code", config.patience, config.export),
        shown=("bits_per_code",),
        matrix_layers=prior.matrix_layers,
    )
    return job, started


def facts_without_codes(config: PriorRun) -> RunFacts:
    """Return what a config says of its run before there are codes."""
    return RunFacts(
        what=f"prior, {config.model.kind}",
        data=public_url(config.data.source),
        images=None,
        held_out=None,
        class_names=None,
        pixels=None,
        num_codes=None,
        grids=None,
        parameters=None,
        steps=config.train.steps,
        batch_size=config.train.batch_size,
    )


def _initial(
    config: PriorRun, architecture: PriorConfig, init_from: Path | str | None
) -> tuple[Prior, str]:
    """Return the initialised prior, and the fingerprint of the prior whose weights it has."""
    seeding.reseed_global(config.seed, "init")
    prior = build_prior(architecture)
    if config.gradient_checkpointing:
        prior.recompute_activations()
    if settings_of(config).compile:
        prior.compile()
    started = ""
    if init_from is not None:
        source = Prior.from_pretrained(init_from)
        started = source.fingerprint
        found, expected = source.config.named_classes, architecture.named_classes
        if found != expected:
            raise ConfigError(
                f"--init-from {init_from}: its classes differ from those of data.source, by name "
                f"or order: expected {both_lists(found, expected)}; train on codes of its classes"
            )
        if source.config != architecture:
            changed = differences_shown(source.config, architecture)
            raise ConfigError(
                f"--init-from {init_from}: its architecture, codes or classes differ from the "
                f"config's ({changed}); see config.json there"
            )
        prior.load_state_dict(source.state_dict(), strict=True)
    return prior, started


def evaluate_bits(
    prior: Prior, data: CodeSubset, check: Callable[[], None] = lambda: None
) -> list[float]:
    """Return the mean bits per code of each level over all samples of `data`, with their labels.

    The processes of a distributed run share the work; each gets the result. check: called before
    each batch; may raise to stop.
    """
    state = process_state()
    device = device_of(prior)
    positions = [h * w for h, w in prior.config.grids]
    total = torch.zeros(len(positions), dtype=torch.float64)
    num_batches = -(-len(data) // EVALUATION_BATCH)
    for first in range(0, num_batches, state.num_processes):
        check()
        start = (first + state.process_index) * EVALUATION_BATCH
        is_beyond = start >= len(data)
        if is_beyond:  # still takes part, because gathering distributed weights takes all processes
            start = 0
        batch = data.__getitems__(list(range(start, min(start + EVALUATION_BATCH, len(data)))))
        codes = tuple(level.to(device) for level in batch.codes)
        labels = visible_labels(prior.config.num_classes, batch.labels.to(device))
        with torch.no_grad():
            nll = negative_log_likelihood(prior(codes, labels), codes).cpu().double()
        if not is_beyond:
            total += torch.stack([level.sum() for level in nll.split(positions, dim=1)])
    total = all_reduce(total, "sum")
    nats = total / (len(data) * torch.tensor(positions))
    return (nats / math.log(2)).tolist()


def code_measures(
    by_name: Mapping[str, Sequence[float]], dataset: CodeDataset
) -> dict[str, float | int]:
    """Return measures over all codes of an image, and with several levels those of each level.

    by_name: name -> bits per code of each level; has `bits_per_code`. Adds bits per image and per
    pixel.
    """
    positions = [h * w for h, w in dataset.grids]
    mean = {
        name: sum(n * v for n, v in zip(positions, values, strict=True)) / sum(positions)
        for name, values in by_name.items()
    }
    per_image = mean["bits_per_code"] * sum(positions)
    image = dataset.plan.image
    measures: dict[str, float | int] = {
        "bits_per_code": mean.pop("bits_per_code"),
        "bits_per_image": per_image,
        "bits_per_pixel": per_image / (image.height * image.width),
        **mean,
    }
    if len(positions) > 1:
        measures |= {
            f"{name}_level{level}": value
            for name, values in by_name.items()
            for level, value in enumerate(values)
        }
    return measures


def _of_level(level: int, levels: Sequence[object]) -> str:
    return f"level {level}: " if len(levels) > 1 else ""


def visible_labels(num_classes: int, labels: Tensor) -> Tensor:
    """Return the labels as the prior's input: all -1 for an unconditional prior."""
    return labels if num_classes else torch.full_like(labels, NO_LABEL)


def loss_function(
    config: PriorRun, num_classes: int
) -> Callable[[nn.Module, CodeBatch, Mapping[str, Value], torch.Generator], StepOutput]:
    """Return the loss: cross-entropy in nats per code, with label dropout."""

    def loss(
        model: nn.Module,
        batch: CodeBatch,
        values: Mapping[str, Value],
        generator: torch.Generator,
    ) -> StepOutput:
        del values  # nothing is scheduled
        labels = visible_labels(num_classes, batch.labels)
        hidden = torch.rand(labels.shape, generator=generator, device=labels.device)
        labels = torch.where(hidden < config.label_dropout, NO_LABEL, labels)
        nll = negative_log_likelihood(model(batch.codes, labels), batch.codes)
        return StepOutput(nll.mean(), {"bits_per_code": bits_per_code(nll)}, {}, {})

    return loss


def open_data(config: PriorRun, fingerprint: str) -> tuple[CodeSubset | OneViewAnEpoch, CodeSubset]:
    """Open the training and the held-out samples; neither is empty.

    Of several views of each image, held-out images have view 0, and no view of theirs is trained
    on. Labels of held-out codes are matched with those of the training codes by class name.
    Raises ShardError for codes of another tokenizer than `fingerprint`, for held-out codes of other
    classes, and if there are none.
    """
    source = _open("data.source", config.data.source, fingerprint)
    if config.data.test is not None:
        if not Path(config.data.test).is_dir():
            raise ShardError(
                f"data.test: {config.data.test}: no such folder; set it to the held-out codes, or "
                "to null to hold out a part of data.source"
            )
        test = _open("data.test", config.data.test, fingerprint)
        check_same_grids(test.place, test.grids, source.grids, f"of data.source {source.place}")
        _warn_of_training_images(config.data, source, test)
        classes = _held_out_classes(config, source, test)
        # Labels met by number in earlier versions; a run that was measured so is not continued.
        note = "" if classes is None or classes.is_same else "/held-out labels by class name"
        training = _training_codes(config, source, range(source.num_images), note)
        return training, _held_out_codes(test, range(test.num_images), classes, note)
    draw = seeding.generator(config.seed, "held out")
    order = torch.randperm(source.num_images, generator=draw).tolist()
    count = max(1, round(source.num_images * config.data.held_out))
    if count == source.num_images:
        raise ShardError(
            f"data.source: {config.data.source}: expected more images than are held out, found "
            f"{count}, all held out by data.held_out={config.data.held_out:g}; lower it, or set "
            "data.test to held-out codes"
        )
    return _training_codes(config, source, order[count:]), _held_out_codes(source, order[:count])


def _training_codes(
    config: PriorRun, dataset: CodeDataset, images: Sequence[int], note: str = ""
) -> CodeSubset | OneViewAnEpoch:
    if dataset.views == 1 or config.data.views == "all":
        return CodeSubset(dataset, samples_of(images, dataset.views), note=note)
    return OneViewAnEpoch(dataset, images, config.seed, note)


def _held_out_codes(
    dataset: CodeDataset,
    images: Sequence[int],
    classes: ClassMatch | None = None,
    note: str = "",
) -> CodeSubset:
    return CodeSubset(dataset, first_views(images, dataset.views), classes, note)


def _held_out_classes(
    config: PriorRun, source: CodeDataset, test: CodeDataset
) -> ClassMatch | None:
    """Match the classes of held-out codes with those that the prior learns.

    Raises ShardError for held-out codes that the prior cannot be measured on.
    """
    if not (config.conditional and source.plan.class_names):
        return None  # the prior does not see labels
    return matched_labels(
        f"data.test: {config.data.test}",
        test.plan.class_names,
        source.plan.class_names,
        f"those of data.source, {config.data.source}",
        needs_labels=config.label_dropout == 0,
    )


def matched_labels(
    where: str,
    found: tuple[str, ...],
    expected: tuple[str, ...],
    whose: str,
    *,
    needs_labels: bool,
) -> ClassMatch:
    """Match the classes of codes with those of a prior, by name.

    where: the codes, and whose: the owner of the expected classes, for messages. needs_labels:
    whether codes without classes are refused; otherwise they are measured without a class.
    Raises ShardError for classes that are not expected, with both lists.
    """
    match = match_classes(found, expected)
    if match.missing or (needs_labels and not found):
        remedy = "" if found else ", or hide labels in training with label_dropout > 0"
        raise ShardError(
            f"{where}: expected classes among {whose}: {both_lists(found, expected)}; encode "
            f"images of these classes{remedy}"
        )
    if not found:
        logger.warning("%s: has no labels, so bits per code are measured without classes", where)
    return match


def _warn_of_training_images(data: CodesConfig, source: CodeDataset, test: CodeDataset) -> None:
    """Warn if held-out codes are of images that are also in the training codes."""
    training = {part.whole_identity for part in merged_parts(source.plan)}
    both = [part.source for part in merged_parts(test.plan) if part.whole_identity in training]
    if both:
        logger.warning(
            "data.test: %s: has training images (%s): bits per code on them do not show how well "
            "the prior models new images; set it to codes of other images, or to null to hold out "
            "a part of data.source",
            data.test,
            ", ".join(both),
        )


def _open(key: str, folder: str, fingerprint: str) -> CodeDataset:
    dataset = open_codes(folder)
    if not len(dataset):
        raise ShardError(
            f"{key}: {folder}: expected codes of at least one image, found 0; "
            "choose another code dataset, or encode images again"
        )
    check_same_tokenizer(
        folder,
        dataset.fingerprint,
        fingerprint,
        "the config's tokenizer",
        "encode the images with this tokenizer, or set `tokenizer` to the other one",
        name=dataset.plan.tokenizer.name,
    )
    return dataset
