"""`prior.verify` and `prior.push`: like those of imagetok, but they also accept priors."""

from pathlib import Path

import torch

from imagetok.data import DataConfig, ImageDataset
from imagetok.inspection import PushResult
from imagetok.tokenizers import Tokenizer
from imagetok.verification import LOAD_CHECKS, Verification, push_with, verify_with
from prior.base import Prior


def verify(
    source: Path | str,
    *,
    tokenizer: Tokenizer | Path | str | None = None,
    data: ImageDataset | DataConfig | Path | str | None = None,
    reencode: int | None = None,
    device: torch.device | str | None = None,
) -> Verification:
    """Check every byte of a tokenizer, prior, run, comparison or code dataset.

    Like `imagetok.verify`, which does not load priors; see there for the arguments.

    >>> prior.verify("runs/digits-gpt/prior").is_good
    """
    return verify_with(
        _CHECKS, source, tokenizer=tokenizer, data=data, reencode=reencode, device=device
    )


def push(
    folder: Path | str,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
) -> PushResult:
    """Check the folder of a tokenizer or prior and upload it to the Hugging Face Hub.

    Like `imagetok.push`, which does not accept priors. A prior includes its tokenizer.

    >>> prior.push("runs/digits-gpt/prior", "user/digits-gpt").origin
    """
    return push_with(_CHECKS, folder, repo, private, revision, message)


def _load_both(folder: Path) -> None:
    """Load a prior and its embedded tokenizer, and check that they belong together."""
    embedded = Tokenizer.from_pretrained(folder / "tokenizer")
    prior = Prior.from_pretrained(folder)
    prior.check_tokenizer(embedded.codes_fingerprint, f"{folder / 'tokenizer'}")


_CHECKS = {**LOAD_CHECKS, "prior": _load_both}
