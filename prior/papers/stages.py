"""The models of trials, finished and at the kept checkpoints of their runs."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from imagetok.comparison.plan import Trial
from imagetok.comparison.trial_distances import folder_of
from imagetok.config import Section, load_config
from imagetok.data import ImageDataset
from imagetok.durable import write_json
from imagetok.errors import InputError
from imagetok.evaluation.batches import batches
from imagetok.images import Images
from imagetok.io.json_files import read_section
from imagetok.processes import device_of
from imagetok.tokenizers import Autoencoder, Tokenizer
from imagetok.training.checkpoint import kept_weights
from imagetok.training.config import TokenizerRun
from imagetok.training.run_folder import CHECKPOINTS

logger = logging.getLogger("imagetok")


class StoredEntropies(Section):
    """Content of entropies.json."""

    identity: dict[str, str]
    """The data, and the fingerprint of the finished tokenizer."""
    steps: dict[Annotated[int, Field(strict=False)], tuple[float, float]]
    """Step -> mean and standard deviation of the entropy."""


class TrialModels(Mapping[Trial, Autoencoder]):
    """The models of finished trials on a device; each is loaded whenever it is asked for.

    A figure may have hundreds of trials, whose models together would not fit in memory.
    """

    def __init__(self, trials: Sequence[Trial], device: torch.device):
        self._trials = dict.fromkeys(trials)
        self._device = device

    def __getitem__(self, trial: Trial) -> Autoencoder:
        if trial not in self._trials:
            raise KeyError(trial)
        return Autoencoder.from_pretrained(trial.folder / "tokenizer").to(self._device)

    def __contains__(self, trial: object) -> bool:
        return trial in self._trials

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)


def stages_of(trial: Trial, model: Autoencoder) -> Iterator[tuple[int, Autoencoder]]:
    """Yield the steps that a trial keeps for figures, in order, with the model at each.

    Where it has reached none of these, yields those of the checkpoints that are there. Raises
    InputError if there is none.
    """
    folder = trial.folder / CHECKPOINTS
    kept = kept_weights(folder)
    if not kept:
        raise InputError(
            f"{folder}: expected an intact checkpoint, found none; restore them, or delete "
            f"{trial.folder} to train it again"
        )
    wanted = load_config(trial.config, TokenizerRun).train.keep_checkpoints
    missing = [f"{step:,}" for step in wanted if step <= trial.steps and step not in kept]
    if missing:
        logger.warning(
            "%s: no checkpoint of step %s, which is not shown", folder, ", ".join(missing)
        )
    for step in sorted(kept.keys() & wanted or kept):
        stage = copy.deepcopy(model)
        stage.load_state_dict(kept[step])
        yield step, stage


def entropies(
    trial: Trial, model: Autoencoder, dataset: ImageDataset, check: Callable[[], None]
) -> dict[int, tuple[float, float]]:
    """Return mean and standard deviation of the entropy over all positions of a dataset, by step.

    Entropies that were measured before are read from the trial's folder. check: called after every
    batch; may raise StoppedError. Raises InputError for a tokenizer without code probabilities.
    """
    path = folder_of(trial) / "entropies.json"
    identity = {"data": dataset.identity(), "tokenizer": model.fingerprint}
    stored = read_section(path, StoredEntropies) if path.is_file() else None
    found = dict(stored.steps) if stored is not None and stored.identity == identity else {}
    shown = {}
    for step, stage in stages_of(trial, model):
        if step not in found:
            found[step] = _entropy_of(
                stage, dataset, f"entropy of {trial.method}, step {step:,}", check
            )
            path.parent.mkdir(exist_ok=True)
            record = StoredEntropies(identity=identity, steps=found)
            write_json(path, record.model_dump(mode="json"))
        shown[step] = found[step]
    return shown


def entropy_maps(trial: Trial, model: Autoencoder, image: Images) -> dict[int, Tensor]:
    """Return the entropy (h, w) in nats at every position of one image (1, C, H, W), by step."""
    return {
        step: _maps(stage, image.to(device_of(stage)), None)[0].cpu()
        for step, stage in stages_of(trial, model)
    }


def _entropy_of(
    model: Autoencoder, dataset: ImageDataset, work: str, check: Callable[[], None]
) -> tuple[float, float]:
    count, total, squares = 0, 0.0, 0.0
    for batch in batches(model, dataset, work=work):
        entropy = _maps(model, batch.images, batch.draw()).double()
        count += entropy.numel()
        total += float(entropy.sum())
        squares += float(entropy.square().sum())
        check()
    mean = total / count
    return mean, max(0.0, squares / count - mean**2) ** 0.5


def _maps(model: Autoencoder, images: Images, draw: torch.Generator | None) -> Tensor:
    maps = (
        model.encode_with_certainty(images, generator=draw)[1]
        if isinstance(model, Tokenizer)
        else {}
    )
    if "entropy" not in maps:
        raise InputError("entropy: expected a tokenizer with code probabilities, found none")
    return maps["entropy"]
