"""Count the collectives of training steps, on each rank of a distributed run.

Run as a program with a JSON object of cases, name -> [config, overrides...]: rank 0 prints, as
JSON, name -> the collectives of each step. Gradients are exchanged inside DistributedDataParallel,
which this does not see.
"""

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch.distributed

from imagetok.config import apply_overrides, validate
from imagetok.named_configs import find_config
from imagetok.training.config import TokenizerRun, TrainConfig
from imagetok.training.job import Job, build_accelerator
from imagetok.training.loop import rehearse
from imagetok.training.tokenizer import job_on_noise
from prior.config import PriorRun
from prior.estimate import NoiseCodes
from prior.training import CodeForm, job_on

NAMES = [
    "all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "barrier",
    "broadcast", "broadcast_object_list", "gather", "reduce", "reduce_scatter_tensor", "scatter",
]  # fmt: skip
STEPS = 3


def noted(name: str, calls: list[str]) -> Callable[..., Any]:
    """The collective of this name, which also notes its calls."""
    genuine = getattr(torch.distributed, name)

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        return genuine(*arguments, **options)

    return call


def job_of(name: str, *overrides: str) -> tuple[Job, TrainConfig]:
    """A job on noise of a named config."""
    tree = apply_overrides(find_config(name).tree, [*overrides, "train.trackers=[]"])
    if tree["kind"] == "tokenizer":
        run = validate(tree, TokenizerRun, name)
        return job_on_noise(run), run.train
    run = validate(tree, PriorRun, name)
    form = CodeForm("", (16,), ((4, 4),), "", tuple("abc"))
    return job_on(run, form, NoiseCodes(form))[0], run.train


def collectives(name: str, *overrides: str) -> list[list[str]]:
    """The names of the collectives of each of some steps."""
    job, config = job_of(name, *overrides, f"train.steps={STEPS}")
    accelerator = build_accelerator(config, Path("nowhere"), "cpu")
    calls: list[str] = []
    genuine = {name: getattr(torch.distributed, name) for name in NAMES}
    for each in NAMES:
        setattr(torch.distributed, each, noted(each, calls))
    try:
        ends = [len(calls) for _ in rehearse(job, config, accelerator=accelerator, seed=0)]
    finally:
        for each, function in genuine.items():
            setattr(torch.distributed, each, function)
    return [calls[a:b] for a, b in pairwise([0, *ends])]


def main() -> None:
    """Print what each case exchanges."""
    found = {name: collectives(*words) for name, words in json.loads(sys.argv[1]).items()}
    if torch.distributed.get_rank() == 0:
        sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
