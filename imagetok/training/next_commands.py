"""The commands that follow a finished run, as text that can be copied to a shell."""

import shlex
from pathlib import Path

from imagetok.data import DataConfig, describe
from imagetok.plugins.loading import plugin_options
from imagetok.training.config import NO_SKIPS


def command(*words: object) -> str:
    """Return an imagetok command, quoted for a shell, with the plugins that are loaded now.

    >>> command("train", "my photos.yaml")
    "imagetok train 'my photos.yaml'"
    """
    return shlex.join(["imagetok", *plugin_options(), *map(str, words)])


def encode_command(
    tokenizer: Path, data: DataConfig, split: str, shards: Path, max_skip: str = NO_SKIPS
) -> str:
    """Return the command that encodes one split of a data source.

    max_skip: number or percentage of unreadable images to allow.
    """
    return command(
        *("encode", "--tokenizer", tokenizer, "--data", describe(data, split)),
        *("--shards", shards, *_allowing(max_skip)),
    )


def decode_command(tokenizer: Path, out: Path) -> str:
    """Return the command that decodes SHARDS, a code dataset that there is, with a tokenizer."""
    return command("decode", "--tokenizer", tokenizer, "--shards", "SHARDS", "--out", out)


def resample_command(tokenizer: Path, out: Path) -> str:
    """Return the command that draws images from PRIOR, with another tokenizer than its own."""
    return command("sample", "--prior", "PRIOR", "--tokenizer", tokenizer, "--out", out)


def evaluate_command(tokenizer: Path, data: DataConfig) -> str:
    """Return the command that measures a tokenizer or VAE on the held-out images."""
    return command("evaluate", "--tokenizer", tokenizer, "--data", describe(data, "test"))


def sample_command(prior: Path, count: int, out: Path) -> str:
    """Return the command that draws images from a prior."""
    return command("sample", "--prior", prior, "-n", count, "--out", out)


def _allowing(max_skip: str) -> list[str]:
    return [] if max_skip == NO_SKIPS else ["--max-skip", max_skip]
