"""Names of folders and classes in a run: no part of its model card, nor of TensorBoard's text."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import imagetok

CONFIG = Path(__file__).parents[3] / "configs" / "digits" / "edvae.yaml"
EVIL = "evil-<script>alert(1)</"
CLASSES = [
    f"{EVIL}| a |",
    f"{EVIL}\n---\nlicense: x\n---\n",
    f"{EVIL}![x](y)",
    f"{EVIL}{{{{ 7*7 }}}}",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of images, hostile in its own name and in those of its classes."""
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in CLASSES:
            place = (
                tmp_path / f"{EVIL[:-2]}\n---\n" / part / name.replace("/", "\N{FRACTION SLASH}")
            )
            place.mkdir(parents=True)
            for i in range(4):
                pixels = draw.integers(0, 256, (12, 12), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    return tmp_path / f"{EVIL[:-2]}\n---\n"


@pytest.mark.slow  # a training
def test_no_name_reaches_the_card_or_tensorboard(folder: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = {
        "data": {"source": "folder", "root": str(folder)},
        "tokenizer.network.width": 8, "tokenizer.quantizer.num_codes": 16,
        "train.steps": 2, "train.batch_size": 4, "train.log_every": 1,
        "train.trackers": ["tensorboard"],
    }  # fmt: skip
    run = tmp_path / "run"
    imagetok.train(CONFIG, out=run, set=settings, device="cpu", progress=False)
    card = (run / "tokenizer" / "README.md").read_text()
    assert "evil" not in card
    front = yaml.safe_load(card.split("---\n")[1])
    assert front == {"library_name": "imagetok", "tags": ["image-tokenizer", "edvae"]}
    events = EventAccumulator(str(run / "logs")).Reload()
    kinds = {kind for kind, tags in events.Tags().items() if tags}
    assert kinds == {"scalars"}
    assert {tag.split("/")[0] for tag in events.Tags()["scalars"]} == {"train", "test"}
    for path in (run / "logs").rglob("*"):
        assert path.is_dir() or b"evil" not in path.read_bytes()
