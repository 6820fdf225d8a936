"""`prior.compare`: comparison of tokenizers, with a prior trained on the codes of each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from imagetok.comparison.follow_up import FollowUp
from imagetok.comparison.from_configs import (
    CompareResult,
    device_for_runs,
    num_images_of,
    published,
    request_of,
    run_request,
)
from imagetok.comparison.from_configs import compare as compare_tokenizers
from imagetok.comparison.plan import SEEDS, ComparisonPlan
from imagetok.comparison.trial_distances import (
    FeatureWork,
    SampleReference,
    check_networks,
)
from imagetok.config import Overrides, validate
from imagetok.data import describe
from imagetok.data.headers import LOOKED_AT
from imagetok.errors import ConfigError
from imagetok.evaluation.protocols import sample_count
from imagetok.named_configs import find_config
from imagetok.progress import progress_shown
from imagetok.training.config_input import with_allowance
from imagetok.training.job import check_machine
from prior.config import PriorRun
from prior.trial_priors import PriorWork, check_selection


def compare(
    configs: Sequence[Path | str],
    out: Path | str,
    *,
    prior: Path | str | None = None,
    num_samples: int | None = None,
    reference: Literal["train", "test"] | None = None,
    reference_count: int | None = None,
    seeds: Sequence[int] = SEEDS,
    set: Overrides = (),
    sweep: Overrides = (),
    allow_different: Sequence[str] = (),
    features: Sequence[str] = (),
    max_skip: int | str | None = None,
    check: int | str = LOOKED_AT,
    jobs: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> CompareResult:
    """Compare tokenizers as `imagetok.compare` does, and train a prior on the codes of each.

    prior: config of the prior; its data, tokenizer and seed are set for each trial. A part of the
    training codes, `data.held_out` of the config, is held out to select its weights; the finished
    prior is measured on the codes of the test images once. num_samples:
    samples drawn from each prior for the distances in `features`; None is 50,000, or the number of
    reference images if that is smaller. reference: the split of the images that samples are
    compared with; None is `train`, as in the papers. reference_count: the number of these images,
    a subset drawn with a fixed seed; None is the whole split. Reconstructions are always those of
    the test images, compared with the test images. The other arguments are those of
    `imagetok.compare`.

    Raises ConfigError as `imagetok.compare` does, for a config that is not of a prior, for
    num_samples, reference and reference_count without both prior and features, for a
    reference_count above the number of images, and for a folder with priors that an earlier version
    selected on the test images.

    >>> result = prior.compare(["a.yaml", "b.yaml"], "runs/comparison", prior="gpt.yaml")
    """
    drawn = {"samples": num_samples, "reference": reference, "reference-count": reference_count}
    given = {name: value for name, value in drawn.items() if value is not None}
    if given and not (prior and features):
        raise ConfigError(
            f"--{next(iter(given))}: needs --prior, to draw samples, and --features, to measure "
            "them"
        )
    if prior is None:
        return compare_tokenizers(
            configs, out, seeds=seeds, set=set, sweep=sweep, allow_different=allow_different,
            features=features, max_skip=max_skip, check=check, jobs=jobs, device=device,
            progress=progress,
        )  # fmt: skip
    request, chosen = (
        request_of(configs, seeds, with_allowance(set, max_skip), sweep, allow_different, features),
        device_for_runs(device),
    )
    found = find_config(prior)
    words = ["--prior", published(prior)]
    words += [word for name, value in given.items() for word in (f"--{name}", str(value))]

    def follow_up(plan: ComparisonPlan) -> FollowUp:
        trials = plan.trials(Path(out))
        check_selection(trials)
        check_networks(request.features, trials, chosen)
        run = validate(found.tree, PriorRun, found.where)
        check_machine(run.train, chosen, f"{found.where}: ")
        images = _sample_reference(plan, num_samples, reference or "train", reference_count)
        measured = FeatureWork(request.features, plan.data, chosen.type, images, plan.max_skip)
        work = PriorWork(found.where, run, images.num_samples, plan.data, chosen.type, measured)
        return FollowUp(work.steps(), work.measures, work.identity)

    with progress_shown(progress):
        return run_request(
            request, Path(out), follow_up, check=check, jobs=jobs, device=chosen, more_words=words
        )


def _sample_reference(
    plan: ComparisonPlan, num_samples: int | None, split: str, count: int | None
) -> SampleReference:
    """Return the counts of samples and reference images; ConfigError for too high a count."""
    available = num_images_of(plan, split)
    if count is not None and not 1 <= count <= available:
        raise ConfigError(
            f"--reference-count: expected 1 to {available:,}, the images of "
            f"{describe(plan.data, split)}, found {count:,}; lower it, or choose another "
            "--reference"
        )
    return SampleReference(num_samples or sample_count(count or available), split, count)
