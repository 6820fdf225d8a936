"""What can go wrong by a user's doing, and the exit code that each kind ends a command with."""

from imagetok.io.urls import without_secrets


class ImagetokError(ValueError):
    """A refusal with one clear message: what, where, expected and found, how to fix it.

    Of a URL in it, neither user info nor query is kept.
    """

    exit_code = 1

    def __init__(self, message: str):
        super().__init__(without_secrets(message))


class ConfigError(ImagetokError):
    """A setting or an argument is refused before any work starts."""

    exit_code = 2


class InputError(ImagetokError):
    """Data is corrupt, hostile or does not fit: images, labels."""

    exit_code = 3


class NotFiniteError(InputError):
    """A tokenizer computes NaN or infinity from good images."""


class ShardError(InputError):
    """A code dataset is damaged, unfinished, or made by another tokenizer."""


class ArtifactError(InputError):
    """A tokenizer or prior folder is missing, damaged, or of an unknown format."""


class CheckpointError(InputError):
    """No checkpoint of a run can be trusted."""


class ResourceError(ImagetokError):
    """The machine cannot do it: disk full, read-only, locked, out of memory, no network."""

    exit_code = 5


class DivergedError(ImagetokError):
    """Training produced a value that is not finite."""

    exit_code = 6


class StoppedError(ImagetokError):
    """A signal asked the work to stop; what is on disk can be resumed."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number
