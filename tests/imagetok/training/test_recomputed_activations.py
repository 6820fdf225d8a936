"""`gradient_checkpointing` of tokenizers changes no value, and is refused where it cannot work."""

import json

import pytest
from test_resume import tree

from imagetok.config import validate
from imagetok.errors import ConfigError
from imagetok.training.config import TokenizerRun
from imagetok.training.tokenizer import train_tokenizer

VQGAN = {
    "kind": "vqgan", "width": 8, "multipliers": [1, 2], "blocks": 1, "latent_channels": 8,
    "norm_groups": 4, "dropout": 0.1,
}  # fmt: skip


def run(network: dict[str, object], **keys: object) -> TokenizerRun:
    whole = tree(steps=3)
    return validate(whole | {"tokenizer": whole["tokenizer"] | {"network": network}} | keys,
                    TokenizerRun, "test")  # fmt: skip


def test_a_run_is_the_same_with_recomputed_activations(tmp_path):
    logs = []
    for recomputes in (False, True):
        folder = tmp_path / str(recomputes)
        train_tokenizer(run(VQGAN, gradient_checkpointing=recomputes), folder, device="cpu")
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        logs.append([json.loads(line) for line in lines])
    assert logs[0] == logs[1] and len(logs[0]) > 3


def test_other_networks_have_nothing_to_recompute():
    with pytest.raises(ConfigError, match=r"gradient_checkpointing: expected false with .*'conv'"):
        run(tree()["tokenizer"]["network"], gradient_checkpointing=True)


def test_the_key_leaves_no_trace_where_it_is_off():
    assert "gradient_checkpointing" not in run(VQGAN).model_dump()
