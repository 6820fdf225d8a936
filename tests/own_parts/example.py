"""The package beside this file as one file, for `--plugin`."""

from pathlib import Path

PACKAGE = Path(__file__).parent / "src" / "imagetok_soft_vq"
SETTINGS = {
    "data": {"source": "gradients", "count": 16},
    "tokenizer.quantizer": {"kind": "soft-vq", "num_codes": 16},
    "objective.weights": {"commitment": {"kind": "constant", "value": 0.25}},
    "tokenizer.network.width": 8,
    "train.steps": 2,
    "train.batch_size": 4,
    "train.trackers": [],
}
"""What a config on digits changes to be trained with both parts, for two steps."""


def write_example(path: Path) -> Path:
    """Its quantizer and data source in a file."""
    parts = [(PACKAGE / f"{part}.py").read_text() for part in ("soft_vq", "gradients")]
    path.write_text("\n".join(parts))
    return path
