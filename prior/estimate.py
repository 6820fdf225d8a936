"""Dry runs of a prior: facts, time and memory, also before its codes or its tokenizer exist."""

import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from imagetok.artifacts import read_artifact
from imagetok.codes.reader import CodeBatch, open_codes
from imagetok.config import validate
from imagetok.data.noise import COUNT
from imagetok.errors import ImagetokError, InputError, ResourceError
from imagetok.images import pixels_text
from imagetok.tokenizers import Autoencoder, Tokenizer
from imagetok.tokenizers.build import build_skeleton
from imagetok.training.config import TokenizerRun
from imagetok.training.config_input import config_of_run
from imagetok.training.estimate import SECONDS, RunEstimate, estimate_run, evaluations_of
from imagetok.training.job import build_accelerator
from prior.config import PriorRun
from prior.stepper import NO_LABEL
from prior.training import (
    CodeForm,
    facts_without_codes,
    form_of,
    job_of,
    job_on,
    settings_of,
    with_commit,
)

logger = logging.getLogger("imagetok")
_NOWHERE = Path("nowhere")  # no step writes there


class NoiseCodes:
    """Random codes of a form; every batch of one length is the same."""

    def __init__(self, form: CodeForm):
        self._form = form

    def __len__(self) -> int:
        return COUNT

    def identity(self) -> str:
        """Return a name, since nothing that is kept was trained on it."""
        return "noise"

    def __getitems__(self, indices: list[int]) -> CodeBatch:
        """Return codes of as many images as indices, all of the first class, if there are any."""
        draw = torch.Generator().manual_seed(0)
        levels = zip(self._form.num_codes, self._form.grids, strict=True)
        codes = tuple(torch.randint(k, (len(indices), *grid), generator=draw) for k, grid in levels)
        label = 0 if self._form.class_names else NO_LABEL
        return CodeBatch(codes, torch.full((len(indices),), label), torch.tensor(indices))


def estimate_prior(
    config: PriorRun, *, init_from: Path | str | None = None, device: str | None = None
) -> RunEstimate:
    """Return the facts of a run, and time and memory estimated from a few steps; writes nothing.

    init_from, device: as for `train_prior`, whose errors are raised. If codes or tokenizer cannot
    be opened, steps are measured on random codes, and the estimate's `refusal` is the error. The
    form of the codes is then that of the tokenizer, or of the config that will train it; if neither
    is known, the estimate has no time.
    """
    accelerator = build_accelerator(config.train, _NOWHERE, device)
    try:
        job = job_of(with_commit(config, _NOWHERE, resume=False), _NOWHERE, init_from)
    except (InputError, ResourceError) as error:
        refusal = _with_missing_codes(error, config)
    else:
        return estimate_run(job, settings_of(config), accelerator=accelerator, seed=config.seed)
    form = _form_without_codes(config)
    if form is not None:
        return estimate_on_noise(config, form, refusal=refusal, init_from=init_from, device=device)
    facts, evaluations = facts_without_codes(config), evaluations_of(config.train)
    return RunEstimate(facts, str(accelerator.device), evaluations, refusal=refusal)


def estimate_on_noise(
    config: PriorRun,
    form: CodeForm,
    *,
    images: int | None = None,
    held_out: int | None = None,
    limit: float = SECONDS,
    refusal: ImagetokError | None = None,
    init_from: Path | str | None = None,
    device: str | None = None,
) -> RunEstimate:
    """Return an estimate from steps on random codes of a form; see `estimate_run`.

    images, held_out: numbers of training and held-out images, if they are known.
    """
    accelerator = build_accelerator(config.train, _NOWHERE, device)
    job, _ = job_on(config, form, NoiseCodes(form), init_from)
    assert job.facts is not None
    job = replace(job, facts=replace(job.facts, images=images, held_out=held_out))
    return estimate_run(
        job,
        settings_of(config),
        accelerator=accelerator,
        seed=config.seed,
        limit=limit,
        refusal=refusal,
    )


def _with_missing_codes(error: ImagetokError, config: PriorRun) -> ImagetokError:
    """Add to the refusal of a run the folders of codes that are missing too."""
    places = {"data.source": config.data.source, "data.test": config.data.test}
    missing = [
        f"{key}: {place}"
        for key, place in places.items()
        if place and "://" not in place and not Path(place).exists() and place not in str(error)
    ]
    if not missing:
        return error
    return InputError(
        f"{error}; missing as well: {', '.join(missing)}, which `imagetok encode` writes"
    )


def _form_without_codes(config: PriorRun) -> CodeForm | None:
    """Return what is known of the codes of a run that has no codes or no tokenizer yet."""
    with suppress(ImagetokError):
        return form_of(open_codes(config.data.source))
    with suppress(ImagetokError):
        artifact = read_artifact(config.tokenizer, "tokenizer")
        skeleton = build_skeleton(artifact.architecture, artifact.origin)
        return _form_of(skeleton, artifact.codes_fingerprint)
    with suppress(ImagetokError):
        source = config_of_run(Path(config.tokenizer).parent)
        if source is not None:
            run = validate(source.tree, TokenizerRun, source.where)
            form = _form_of(build_skeleton(run.tokenizer.model_dump(), source.where), "")
            logger.info("no tokenizer yet: the form of its codes is taken from %s", source.where)
            return form
    return None


def _form_of(tokenizer: Autoencoder, fingerprint: str) -> CodeForm | None:
    if not isinstance(tokenizer, Tokenizer):
        return None
    pixels = pixels_text(tokenizer.image)
    return CodeForm(fingerprint, tokenizer.num_codes, tokenizer.grids, pixels, None)
