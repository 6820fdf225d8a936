"""Counts the graph breaks of the priors of configs.

A program of its own: in a test run, functions are wrapped by checks of their types, which torch
does not compile. Arguments: names of configs. Prints a JSON object, name -> graph breaks.
"""

import json
import sys

import torch

from imagetok import configs
from imagetok.config import validate
from imagetok.seeding import reseed_global
from prior.build import build_prior
from prior.config import PriorConfig, PriorRun


def graph_breaks(name: str) -> int:
    """Return the graph breaks of a training step's forward pass on two images of random codes."""
    run = validate(configs(name).tree, PriorRun, name)
    grids = ((2, 2), (4, 4)) if run.model.kind == "hierarchy" else ((4, 4),)
    reseed_global(0)
    architecture = PriorConfig(
        tokenizer_fingerprint="0" * 64,
        num_codes=(16,) * len(grids),
        grids=grids,
        num_classes=2 if run.conditional else 0,
        model=run.model,
    )
    prior = build_prior(architecture).train()
    codes = tuple(torch.randint(16, (2, *grid)) for grid in grids)
    torch._dynamo.reset()
    explained = torch._dynamo.explain(prior)(codes, torch.full((2,), -1))
    for reason in explained.break_reasons:
        sys.stderr.write(f"{name}: {reason.reason}\n{reason.user_stack[-1]}\n")
    return explained.graph_break_count


if __name__ == "__main__":
    sys.stdout.write(json.dumps({name: graph_breaks(name) for name in sys.argv[1:]}))
