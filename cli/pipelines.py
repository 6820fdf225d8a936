"""What a command does where both sides, images and priors, are needed. No click here."""

import json
from pathlib import Path

from imagetok.config import apply_overrides, read_yaml, validate
from imagetok.errors import ConfigError
from imagetok.processes import keep_freed_memory, process_state
from imagetok.tokenizers import Tokenizer
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


def sample_images(
    prior_source: Path | str,
    tokenizer_source: Path | str | None,
    out: Path,
    n: int,
    *,
    labels: list[int | str] | None,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    guidance: float,
    seed: int,
    device: object,
) -> list[int]:
    """Draw n images into `out`: NNNNNN.png, grid.png, samples.json; returns their labels.

    prior_source, tokenizer_source: folders or Hub ids; no tokenizer takes the one embedded in the
    prior. Raises ShardError when it is another than the prior was trained on, ConfigError when
    `out` holds anything.
    """
    import torch

    from imagetok.codes.decode import decode_in_batches, save_images
    from imagetok.report.pictures import coloured, save_grid
    from prior import Prior

    if process_state().num_processes > 1:
        raise ConfigError("sample runs in one process; start it without a launcher")
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out}: not empty; choose another --out")
    prior = Prior.from_pretrained(prior_source)
    assert prior.tokenizer_folder is not None
    tokenizer = Tokenizer.from_pretrained(tokenizer_source or prior.tokenizer_folder)
    prior.check_tokenizer(tokenizer.fingerprint, str(tokenizer_source or prior_source))
    where = torch.device(str(device))
    prior, tokenizer = prior.to(where), tokenizer.to(where)
    codes = prior.sample(
        n,
        label=labels,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        guidance=guidance,
        seed=seed,
    )
    images = decode_in_batches(tokenizer, codes)
    cycle = prior.labels_for(labels)
    drawn = [cycle[j % len(cycle)] for j in range(n)]
    save_images(images, out, range(n))
    columns = len(cycle) if 1 < len(cycle) <= 20 else max(1, round(min(n, 100) ** 0.5))
    save_grid(coloured(images[:100]), out / "grid.png", columns=columns, scale=2)
    settings = {
        "prior": prior.fingerprint,
        "origin": prior.origin,
        "tokenizer": tokenizer.fingerprint,
        "seed": seed,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "guidance": guidance,
        "labels": drawn,
    }
    (out / "samples.json").write_text(json.dumps(settings, indent=2) + "\n")
    return drawn
