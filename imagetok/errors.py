"""Errors that a user can cause or meet, and the exit code of a command for each."""

from imagetok.io.url_secrets import without_secrets


class ImagetokError(ValueError):
    """Base of all errors: one clear message with place, expected and found values, and a remedy.

    User info and queries of URLs are removed from the message.
    """

    exit_code = 1

    def __init__(self, message: str):
        super().__init__(without_secrets(message))


class ConfigError(ImagetokError):
    """An invalid setting or argument, found before any work starts."""

    exit_code = 2


class InputError(ImagetokError):
    """Input data that is missing, damaged, malicious or does not fit, such as images or labels."""

    exit_code = 3


class NotFiniteError(InputError):
    """A model has or computes NaN or infinity, such as a tokenizer from valid images."""


class ShardError(InputError):
    """A code dataset that is damaged or unfinished, or was made by another tokenizer."""


class ArtifactError(InputError):
    """A tokenizer or prior that is missing, damaged, or of an unknown format."""


class MissingPluginError(ArtifactError):
    """A tokenizer, prior, run or comparison that needs a custom part of a plugin not loaded."""


class CheckpointError(InputError):
    """A checkpoint that is damaged or does not belong to the run."""


class ResourceError(ImagetokError):
    """A missing resource: disk full or read-only, folder locked, out of memory, no network."""

    exit_code = 5


class DivergedError(ImagetokError):
    """Training diverged: a value is not finite, or a held-out measure is beyond its limit."""

    exit_code = 6


class StoppedError(ImagetokError):
    """Work that a signal stopped; the same call or command continues it."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number
