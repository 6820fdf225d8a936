"""Training a tokenizer or VAE: builds the job of a config and runs the loop."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from imagetok import seeding
from imagetok.data import ImageBatch, ImageDataset, ImageError, describe
from imagetok.data.headers import LOOKED_AT
from imagetok.data.listed import ListedImages
from imagetok.data.noise import NoiseImages
from imagetok.data.substitutes import SubstitutedImages
from imagetok.errors import InputError, ResourceError
from imagetok.evaluation import evaluate_reconstruction
from imagetok.evaluation.codebook_health import codebook_state
from imagetok.images import ImageContract, clamp_pixels, from_stored, pixels_text, with_class
from imagetok.indices import spread
from imagetok.networks.vqgan import Layers
from imagetok.pictures import as_rgb, save_grid, side_by_side
from imagetok.processes import device_of, process_state, with_channels_last
from imagetok.quantizers import code_counts, codebook_use, is_concatenated, level_name
from imagetok.tokenizers import Autoencoder, Tokenizer, build_autoencoder
from imagetok.training.adversary import Discriminator
from imagetok.training.config import AdversarialConfig, ObjectiveConfig, TokenizerRun
from imagetok.training.divergence import DivergenceLimits
from imagetok.training.estimate import RunEstimate, estimate_run
from imagetok.training.facts import RunFacts, count_parameters
from imagetok.training.gpu_times import times_on_gpu
from imagetok.training.job import Job, build_accelerator
from imagetok.training.loop import train
from imagetok.training.perceptual import PerceptualLoss
from imagetok.training.run_folder import (
    PLACES,
    check_config,
    check_free,
    open_run,
    shared_run,
    with_recorded_lengths,
)
from imagetok.training.run_images import RunImages, with_recorded_allowance
from imagetok.training.schedules import Value
from imagetok.training.sharding import refuse_sharding
from imagetok.training.starting_weights import StartingWeights, start
from imagetok.training.step_output import Judged, StepOutput

if TYPE_CHECKING:
    from imagetok.data.augmented_images import AugmentedImages

logger = logging.getLogger("imagetok")
PICTURES = 16


def train_tokenizer(
    config: TokenizerRun,
    run: Path,
    *,
    resume: bool = False,
    init_from: Path | str | None = None,
    device: str | None = None,
    check: int | None = LOOKED_AT,
) -> dict[str, float | int]:
    """Train the tokenizer of a config in the folder `run`; return its held-out measures.

    run: config.yaml, metrics.jsonl, timing.jsonl, pictures/, checkpoints/ and, at the end,
    tokenizer/ are written there. resume: continue the run in the folder. init_from: a tokenizer
    folder or Hub id of the same architecture for the initial weights; the tokenizer whose codes
    stay if the decoder alone is trained, and then needed to resume too. device: "cpu" to use no
    GPU. check: number of files of each split to look at before training; None is all.
    Raises what `open_run` and `loop.train` raise, and InputError if more images than
    `config.max_skip` are missing or damaged.
    """
    accelerator = build_accelerator(config.train, run, device)
    refuse_sharding(accelerator)
    logger.info(
        "run folder: %s, processes: %d, device: %s",
        run,
        accelerator.num_processes,
        accelerator.device,
    )
    config = with_recorded_lengths(config, run, resume=resume)
    config = with_recorded_allowance(config, run, resume=resume)
    if resume:
        check_config(run, config)
    else:
        check_free(run)  # before all images are looked at
    images = RunImages(config, run, resume=resume)
    job = _job(config, run, images, init_from)  # raises for bad input before the folder is changed
    with shared_run(run, config, job.inputs, places=PLACES):
        images.check(check)
        with open_run(run, config, resume=resume, is_main=accelerator.is_main_process):
            logger.info("%s", job.facts)
            return train(
                job,
                config.train,
                accelerator=accelerator,
                run=run,
                seed=config.seed,
                unit="images",
                save_first=init_from is not None,
            )


def estimate_tokenizer(
    config: TokenizerRun, *, init_from: Path | str | None = None, device: str | None = None
) -> RunEstimate:
    """Return the facts of a run, and time and memory estimated from a few steps; writes nothing.

    init_from, device: as for `train_tokenizer`, whose errors are raised. If the images cannot be
    opened, steps are measured on noise, and the estimate's `refusal` is the error.
    """
    nowhere = Path("nowhere")  # no step writes there
    accelerator = build_accelerator(config.train, nowhere, device)
    refuse_sharding(accelerator)
    refusal, images = None, None
    try:
        images = RunImages(config, nowhere, resume=False, is_rehearsal=True)
        job = _job(config, nowhere, images, init_from)
    except (InputError, ResourceError) as error:
        refusal = error
        job = job_on_noise(config, init_from)
    estimate = estimate_run(
        job, config.train, accelerator=accelerator, seed=config.seed, refusal=refusal
    )
    if accelerator.device.type == "cpu":
        estimate = replace(estimate, on_gpu=times_on_gpu(config))
    if images is None:
        return estimate
    skipped = {image.path: image.reason for image in images.skipped_in_training}
    return replace(estimate, unreadable=skipped)


def job_on_noise(config: TokenizerRun, init_from: Path | str | None = None) -> Job:
    """Return a job that trains on noise of the images' form, and measures and writes nothing."""
    return _job_without_images(config, _initial(config, init_from)[0], _perceptual(config))


def _initial(
    config: TokenizerRun, init_from: Path | str | None
) -> tuple[Autoencoder, StartingWeights]:
    """Return the initialised model, and where its weights come from."""
    seeding.reseed_global(config.seed, "init")
    tokenizer = build_autoencoder(config.tokenizer)
    if config.gradient_checkpointing:
        for network in tokenizer.networks():
            cast(Layers, network).recompute_activations()
    if config.train.compile:
        tokenizer.compile()
        if config.objective.adversarial is not None:
            # Its gradient norms use a compiled graph twice, which may then not reuse its buffers.
            torch._functorch.config.donated_buffer = False  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    return tokenizer, start(tokenizer, init_from, only_decoder=config.trained == "decoder")


def _job(config: TokenizerRun, run: Path, images: RunImages, init_from: Path | str | None) -> Job:
    tokenizer, started = _initial(config, init_from)
    perceptual = _perceptual(config)
    states = [""] * len(tokenizer.num_codes)

    def evaluate(model: nn.Module, step: int, check: Callable[[], None]) -> dict[str, float | int]:
        bare = cast(Autoencoder, model)
        measures = images.on_held_out(lambda data: evaluate_reconstruction(bare, data, check))
        if process_state().is_main_process:
            with suppress(ImageError):  # it became unreadable after it was measured
                path = run / "pictures" / f"step-{step:08d}.png"
                is_first = not path.parent.is_dir()
                _save_pictures(bare, images.held_out, path)
                if is_first:
                    logger.info("held-out images above their reconstructions: %s", path)
        if isinstance(bare, Tokenizer) and config.trained == "all":
            _log_codebook_states(step, measures, states, bare.grids)
        return measures

    def export(model: nn.Module, measures: dict[str, float | int]) -> None:
        named = {f"{config.data.source} test {name}": value for name, value in measures.items()}
        started.check_kept(cast(Autoencoder, model))
        cast(Autoencoder, model).save_pretrained(run / "tokenizer", named)

    def inputs() -> dict[str, str]:
        training = images.training.dataset
        return {
            "training images": training.identity(),
            "some training images": training.sample(),
            "held-out images": images.held_out.identity(),
            "weights to start from": started.fingerprint,
            **job.networks,
        }

    job = _job_without_images(config, tokenizer, perceptual)
    if started.fixed:
        tokenizer_there = {"tokenizer whose codes it decodes": started.fingerprint}
        job = replace(job, networks=tokenizer_there | dict(job.networks))
    assert job.facts is not None
    dataset = SubstitutedImages(_training_images(config, images.training), config.seed)
    return replace(
        job,
        dataset=dataset,
        kept_on=lambda device, check: dataset.kept_on(device, config.resident, check),
        read_differently=lambda: images.training.dataset.read_differently(),
        unpack=images.unpack,
        keep=images.keep,
        inputs=inputs,
        evaluate=evaluate,
        export=export,
        artifact=run / "tokenizer",
        facts=replace(
            job.facts,
            images=len(images.training),
            held_out=len(images.held_out),
            class_names=images.training.class_names,
        ),
    )


def _job_without_images(
    config: TokenizerRun, tokenizer: Autoencoder, perceptual: PerceptualLoss | None = None
) -> Job:
    """Return the job of a config on noise, which measures and writes nothing."""
    objective, adversary = config.objective, _adversary(config)
    networks = {} if perceptual is None else {"perceptual network": perceptual.sha256}
    if adversary is not None and adversary[1].started_from:
        networks["discriminator to start from"] = adversary[1].started_from
    only_decoder = config.trained == "decoder"
    if only_decoder:
        objective = objective.model_copy(update={"weights": {}})
    factors = config.learning_rate_factors
    facts = RunFacts(
        what=f"{tokenizer.kind}, {' '.join(config.tokenizer.method)}"
        + (", its decoder alone" if only_decoder else ""),
        data=describe(config.data, "train"),
        images=None,
        held_out=None,
        class_names=None,
        pixels=pixels_text(config.tokenizer.image),
        num_codes=tokenizer.num_codes,
        grids=tokenizer.grids if isinstance(tokenizer, Tokenizer) else (),
        parameters=count_parameters(tokenizer),
        steps=config.train.steps,
        batch_size=config.train.batch_size,
    )
    return Job(
        model=with_channels_last(tokenizer),
        dataset=NoiseImages(config.tokenizer.image),
        loss=loss_function(objective, tokenizer.image, tokenizer.num_codes, perceptual),
        schedules=objective.schedules,
        adversary=adversary,
        networks=networks,
        update=_no_update if only_decoder else _update,
        factor_of=lambda name: getattr(factors, tokenizer.part_of(name)),
        describe=_describe,
        evaluate=lambda model, step, check: {},
        export=lambda model, measures: None,
        artifact=Path("nowhere"),
        facts=facts,
        # Pixels in [0, 1] differ by at most 1, so their mean squared error is at most 1.
        limits=DivergenceLimits("mse", most=1.0, noticed=0.01),
        shown=(
            "mse",
            "pixel_accuracy",
            "perceptual",
            "discriminator_accuracy",
            *(
                level_name(name, level, len(tokenizer.num_codes))
                for name in ("batch_perplexity", "batch_usage")
                for level in range(len(tokenizer.num_codes))
            ),
        ),
    )


def _update(model: nn.Module, stats: dict[str, Tensor], draw: torch.Generator) -> dict[str, Tensor]:
    return cast(Autoencoder, model).update(stats, draw)


def _no_update(
    model: nn.Module, stats: dict[str, Tensor], draw: torch.Generator
) -> dict[str, Tensor]:
    """Keep the quantizers as they are."""
    del model, stats, draw
    return {}


def _adversary(config: TokenizerRun) -> tuple[AdversarialConfig, Discriminator] | None:
    section = config.objective.adversarial
    if section is None:
        return None
    if section.start >= config.train.steps:
        logger.warning(
            "objective.adversarial.start is %d, but train.steps is only %d: the discriminator will "
            "never learn",
            section.start,
            config.train.steps,
        )
    seeding.reseed_global(config.seed, "discriminator")
    network = Discriminator(section, config.tokenizer.image.channels)
    if section.init_from is not None:
        network.start_from(Path(section.init_from))
    return section, with_channels_last(network)


def _perceptual(config: TokenizerRun) -> PerceptualLoss | None:
    section = config.objective.perceptual
    if section is None:
        return None
    return PerceptualLoss(section, config.tokenizer.image, config.train.autocast)


def _training_images(
    config: TokenizerRun, images: ListedImages
) -> "ListedImages | AugmentedImages":
    if config.augment is None:
        return images
    # Imported here, because torchvision takes a second to import.
    from imagetok.data.augmented_images import AugmentedImages

    return AugmentedImages(images, config.augment, config.tokenizer.image, config.seed)


def loss_function(
    objective: ObjectiveConfig,
    image: ImageContract,
    num_codes: tuple[int, ...],
    perceptual: PerceptualLoss | None = None,
) -> Callable[[nn.Module, ImageBatch, Mapping[str, Value], torch.Generator], StepOutput]:
    """Return the loss function: reconstruction, perceptual and the quantizer's weighted losses.

    Its values are those of `objective.schedules`. num_codes: codebook size of each level, for
    counting the codes of a batch. perceptual: the perceptual loss, if the objective has one; it is
    moved to the images' device.
    """

    def loss(
        model: nn.Module,
        batch: ImageBatch,
        values: Mapping[str, Value],
        generator: torch.Generator,
    ) -> StepOutput:
        images = from_stored(batch.images, image)
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        out = model(images, temperature=values["temperature"], generator=generator)
        reconstruction = out.losses["reconstruction"]
        if objective.pixel is not None:
            reconstruction = _pixel_error(objective.pixel, out.x_hat, images)
        total = reconstruction
        for name in objective.weights:
            total = total + values[f"weights.{name}"] * out.losses[name]
        metrics = {k: v for k, v in out.losses.items() if k != "reconstruction"}
        if perceptual is not None:
            metrics["perceptual"] = perceptual.to(images.device)(out.x_hat, images)
            weighted = values["perceptual.weight"] * metrics["perceptual"]
            total, reconstruction = total + weighted, reconstruction + weighted
        if images.is_floating_point():
            metrics["mse"] = (out.x_hat.detach() - images).square().mean()
        else:
            metrics["pixel_accuracy"] = _pixel_accuracy(out.x_hat, images, image)
        rows = {name: value for name, value in out.stats.items() if is_concatenated(name)}
        sums = {name: value for name, value in out.stats.items() if name not in rows}
        counts = tuple(
            code_counts(indices, k) for indices, k in zip(out.indices, num_codes, strict=True)
        )
        judged = None
        if objective.adversarial is not None:
            judged = Judged(images, out.x_hat, reconstruction)
        return StepOutput(total, metrics, sums, rows, counts, judged)

    return loss


def _pixel_error(kind: Literal["l1", "l2"], x_hat: Tensor, images: Tensor) -> Tensor:
    error = x_hat.float() - images
    return (error.abs() if kind == "l1" else error.square()).mean()


def _pixel_accuracy(x_hat: Tensor, images: Tensor, image: ImageContract) -> Tensor:
    """Return the share of the pixels with a class that are reconstructed."""
    is_right, has_class = x_hat == images, with_class(images, image)
    if has_class is None:
        return is_right.float().mean()
    return (is_right & has_class).sum() / has_class.sum().clamp_min(1)


def _describe(counts: tuple[Tensor, ...]) -> dict[str, float]:
    """Return perplexity and fraction of codes used by one training batch, per level."""
    values: dict[str, float] = {}
    for level, level_counts in enumerate(counts):
        use = codebook_use(level_counts)
        values[level_name("batch_perplexity", level, len(counts))] = use.perplexity
        values[level_name("batch_usage", level, len(counts))] = use.codes_used / use.num_codes
    return values


def _log_codebook_states(
    step: int,
    measures: dict[str, float | int],
    states: list[str],
    grids: Sequence[tuple[int, int]],
) -> None:
    """Log every level whose codebook state changed since the previous evaluation."""
    for level, (before, (height, width)) in enumerate(zip(states, grids, strict=True)):
        perplexity, used, num_codes = (
            measures[level_name(name, level, len(states))]
            for name in ("perplexity", "codes_used", "num_codes")
        )
        positions = int(measures["num_images"]) * height * width
        states[level] = codebook_state(perplexity, int(num_codes), positions)
        if states[level] != before:
            advice = {
                "healthy": "",
                "undetermined": f"; {positions:,} code positions are too few to judge it",
            }.get(states[level], "; `imagetok diagnose` suggests what to try")
            logger.info(
                "step %d: %s is %s: %d of %d codes used, perplexity %.1f%s",
                *(step, level_name("the codebook", level, len(states)).replace("_", ", ")),
                *(states[level], used, num_codes, perplexity, advice),
            )


def _save_pictures(tokenizer: Autoencoder, dataset: ImageDataset, path: Path) -> None:
    device = device_of(tokenizer)
    images = from_stored(dataset.read(spread(len(dataset), PICTURES)).images, tokenizer.image)
    draw = seeding.generator(0, "pictures", device=device)
    x_hat = tokenizer.reconstruct(images.to(device), generator=draw).nan_to_num().cpu()
    pairs = side_by_side(as_rgb(images), as_rgb(clamp_pixels(x_hat)), columns=8)
    save_grid(pairs, path, columns=8, scale=2)
