"""The package beside this file as one file, for `--plugin`."""

from pathlib import Path

PACKAGE = Path(__file__).parent / "src" / "imagetok_soft_vq"


def write_example(path: Path) -> Path:
    """Its quantizer and data source in a file."""
    parts = [(PACKAGE / f"{part}.py").read_text() for part in ("soft_vq", "gradients")]
    path.write_text("\n".join(parts))
    return path
