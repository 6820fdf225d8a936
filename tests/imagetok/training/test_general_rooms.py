"""The loop and what stands around it know no measure, no model and no kind of run by name."""

import ast
import io
import tokenize
from pathlib import Path

import pytest
import torch
from torch import nn

import imagetok.training
from imagetok.training.config import OptimizerConfig
from imagetok.training.optimizer import build_optimizer

ROOM = Path(imagetok.training.__file__).parent
SPECIAL = {"tokenizer.py", "config.py", "trained.py", "config_input.py", "run_images.py"}
SPECIAL |= {"next_commands.py", "perceptual.py", "adversary.py", "gpu_times.py"}
SPECIAL |= {"starting_weights.py"}
"""A tokenizer's job, first weights, losses, config, result, images, times and next commands, and
what tells kinds apart."""
LOADER = "imagetok.data.loader_workers"  # of any examples
GENERAL = sorted(path for path in ROOM.glob("*.py") if path.name not in SPECIAL)
ROOMS = ("data", "images", "pictures", "quantizers", "networks", "tokenizers", "codes")
NAMES = {
    "mse", "psnr_db", "ssim", "perplexity", "batch_perplexity", "batch_usage", "pixel_accuracy",
    "bits_per_code", "tokenizer_fingerprint", "patience", "tokenizer", "Conv1D", "transformers",
}  # fmt: skip


@pytest.mark.parametrize("path", GENERAL, ids=lambda path: path.name)
def test_general_rooms_name_nothing_special(path):
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("imagetok."):
            if node.module == LOADER:
                continue
            room = node.module.split(".")[1]
            assert room not in (*ROOMS, "evaluation", "reporting"), node.module
    strings = {
        ast.literal_eval(token.string)
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.STRING and token.string[0] in "\"'"
    }
    assert not strings & NAMES


def test_weight_decay_touches_matrices_also_of_layers_that_are_named():
    class Foreign(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2, 2))
            self.bias = nn.Parameter(torch.zeros(2))

    model = nn.Sequential(nn.Linear(2, 2), Foreign(), nn.LayerNorm(2), nn.Embedding(2, 2))
    config = OptimizerConfig(weight_decay=0.1)
    for layers, expected in [((), [0]), ((Foreign,), [0, 1])]:
        groups = build_optimizer(model, config, layers).param_groups
        decayed = [p for group in groups if group["weight_decay"] for p in group["params"]]
        assert [id(p) for p in decayed] == [id(model[i].weight) for i in expected]
