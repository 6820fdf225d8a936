"""What a command does where both sides, images and priors, are needed. No click here."""

from pathlib import Path

from imagetok.config import apply_overrides, validate
from imagetok.errors import ConfigError
from imagetok.named_configs import find_config
from imagetok.processes import keep_freed_memory
from imagetok.training.config import TokenizerRun
from imagetok.training.tokenizer import train_tokenizer


def train_from_config(
    config: Path | str,
    overrides: list[str],
    out: Path,
    *,
    resume: bool = False,
    init_from: str | None = None,
    device: str | None = None,
) -> tuple[str, dict[str, float | int]]:
    """Train what a config says; returns (`tokenizer` or `prior`, last measures).

    config: a file, or the name of a config.
    """
    keep_freed_memory()
    found = find_config(config)
    tree = apply_overrides(found.tree, overrides)
    kind = tree.get("kind")
    if kind == "tokenizer":
        run = validate(tree, TokenizerRun, found.where)
        measures = train_tokenizer(run, out, resume=resume, init_from=init_from, device=device)
    elif kind == "prior":
        from prior.config import PriorRun
        from prior.training import train_prior

        run = validate(tree, PriorRun, found.where)
        measures = train_prior(run, out, resume=resume, init_from=init_from, device=device)
    else:
        raise ConfigError(f"{found.where}: kind: expected 'tokenizer' or 'prior', found {kind!r}")
    return kind, measures
