"""What a command does where both sides, images and priors, are needed. No click here."""

from pathlib import Path

from imagetok.config import apply_overrides, read_yaml, validate
from imagetok.errors import ConfigError
from imagetok.processes import keep_freed_memory
from imagetok.training.config import TokenizerRun
from imagetok.training.tokenizer import train_tokenizer


def train_from_config(
    path: Path,
    overrides: list[str],
    out: Path,
    *,
    resume: bool = False,
    init_from: str | None = None,
    device: str | None = None,
) -> tuple[str, dict[str, float | int]]:
    """Train what a config file says; returns (`tokenizer` or `prior`, last measures)."""
    keep_freed_memory()
    tree = apply_overrides(read_yaml(path), overrides)
    kind = tree.get("kind")
    if kind == "tokenizer":
        config = validate(tree, TokenizerRun, str(path))
        measures = train_tokenizer(config, out, resume=resume, init_from=init_from, device=device)
    elif kind == "prior":
        from prior.config import PriorRun
        from prior.training import train_prior

        config = validate(tree, PriorRun, str(path))
        measures = train_prior(config, out, resume=resume, init_from=init_from, device=device)
    else:
        raise ConfigError(f"{path}: kind: expected 'tokenizer' or 'prior', found {kind!r}")
    return kind, measures
