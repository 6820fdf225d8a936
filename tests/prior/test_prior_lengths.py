"""A prior's schedules without a length keep the length that the run started with."""

from pathlib import Path

import torch

from imagetok.codes.encode import encode_dataset, make_plan
from imagetok.config import read_yaml, validate
from imagetok.data import ArrayImages
from imagetok.tokenizers import Tokenizer
from prior.config import PriorRun
from prior.training import train_prior


def encode_random(tokenizer_folder: Path, folder: Path) -> Path:
    tokenizer = Tokenizer.from_pretrained(tokenizer_folder)
    pixels = torch.randint(0, 256, (40, 1, 6, 6), generator=torch.Generator().manual_seed(0))
    stored = pixels.to(torch.uint8)
    images = ArrayImages(stored, None, name="random", split="train", contract=tokenizer.image)
    plan = make_plan(tokenizer, images, source="random:train", name="tiny")
    encode_dataset(tokenizer, images, folder, plan)
    return folder


def test_an_extended_prior_is_one_of_the_recorded_lengths(tokenizer_folder, tmp_path, caplog):
    codes = encode_random(tokenizer_folder, tmp_path / "codes")

    def train(name: str, total: int, resume: bool = False, **length: int) -> bytes:
        tree = {
            "data": {"source": str(codes), "held_out": 0.2},
            "tokenizer": str(tokenizer_folder),
            "model": {"kind": "gpt", "layers": 1, "heads": 2, "width": 16},
            "train": {
                "steps": total,
                "batch_size": 8,
                "learning_rate": {
                    "kind": "warmup_cosine",
                    "peak": 1e-2,
                    "end": 1e-3,
                    "warmup": 1,
                    **length,
                },
                "trackers": [],
            },
        }
        config = validate(tree, PriorRun, "test")
        train_prior(config, tmp_path / name, resume=resume, device="cpu")
        return (tmp_path / name / "prior" / "model.safetensors").read_bytes()

    first = train("run", 3)
    assert read_yaml(tmp_path / "run" / "config.yaml")["train"]["learning_rate"]["steps"] == 3
    extended = train("run", 6, resume=True)
    assert "train.learning_rate.steps stays 3" in caplog.text
    assert extended == train("whole", 6, steps=3) != first
    assert extended != train("other", 6)
