"""A model that is an artifact: saved to a folder, loaded from one or from the Hub, shared there."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import nn

from imagetok import artifacts, hub
from imagetok.config import Section
from imagetok.durable import staged_folder
from imagetok.errors import ArtifactError, NotFiniteError
from imagetok.plugins.records import needs_in_words, records_of

C = TypeVar("C", bound=Section)
Model = TypeVar("Model", bound="Pretrained[Any]")


class Card(NamedTuple):
    """What a model card says of a model, beside its fingerprint and measured values."""

    title: str
    tags: list[str]
    body: list[str]
    """Lines: what it is, and how it is used."""
    task: str | None = None
    """The Hub's name of what the model does, where it has one."""


class Pretrained(nn.Module, ABC, Generic[C]):
    """A model with a config that its architecture follows from, and a fingerprint.

    What is saved is loaded again: a model whose weights are not those that its config describes,
    in names, shapes and dtypes, is refused before anything is written.
    """

    kind: ClassVar[artifacts.Kind]
    """Of its artifact."""
    config: C
    origin: str | None = None
    """Where it was loaded from or saved to last: a folder, or user/name@commit on the Hub."""
    _fingerprint: str | None = None
    _loaded_architecture: dict[str, object] | None = None

    @classmethod
    def from_pretrained(cls: type[Model], source: Path | str, revision: str | None = None) -> Model:
        """Load a model on the CPU, in evaluation mode.

        source: a folder, or a Hub id user/name[@revision]. revision: the Hub id's branch, tag or
        commit. Raises ArtifactError if it is not there, not to be trusted or of another class,
        ResourceError if the Hub cannot be reached and the cache does not have it.
        """
        artifact = artifacts.read_artifact(source, cls.kind, revision)
        model = cls._load(artifact)
        if not isinstance(model, cls):
            raise ArtifactError(
                f"{artifact.origin}: expected a {cls.__name__}, found a {type(model).__name__}"
            )
        model._fingerprint, model.origin = artifact.fingerprint, artifact.origin
        model._loaded_architecture = artifact.architecture
        return model.requires_grad_(False).eval()

    @property
    def fingerprint(self) -> str:
        """What codes and samples are bound to: sha256 of config and weights, as saved or loaded.

        Of a model that was never saved it is computed from the weights of the moment.
        """
        if self._fingerprint is not None:
            return self._fingerprint
        return artifacts.fingerprint_of(self.kind, self._architecture(), self.state_dict())

    def check_finite(self) -> None:
        """Raise NotFiniteError for weights that are NaN or infinite."""
        for name, tensor in self.state_dict().items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise NotFiniteError(
                    f"{self.origin or f'this {self.kind}'}: expected finite weights, found NaN or "
                    f"infinity in {name}: its training has diverged; train it again with a lower "
                    "train.learning_rate or train.clip_norm=1.0, or take an earlier checkpoint"
                )

    @staticmethod
    @abstractmethod
    def _load(artifact: artifacts.Artifact) -> "Pretrained[Any]":
        """The model of an artifact, with its weights."""

    @abstractmethod
    def _skeleton(self) -> nn.Module:
        """What the architecture that is saved describes, built on the meta device."""

    @abstractmethod
    def _card(self) -> Card: ...

    def _write(
        self,
        folder: Path,
        metrics: Mapping[str, float | int] | None,
        embedded: artifacts.Artifact | None = None,
    ) -> str:
        """Write the artifact folder durably; returns the fingerprint.

        embedded: an artifact that this one contains, in a folder named by its kind.
        """
        with torch.random.fork_rng(devices=[]):  # some parts are made on the CPU even then
            artifacts.check_fits(self, self._skeleton(), folder)
        card = self._card()
        with staged_folder(folder) as staged:
            plugins = records_of(self.config)
            fingerprint = artifacts.write_artifact(
                staged, self.kind, self._architecture(), self, plugins
            )
            named = f"Fingerprint: `{fingerprint}`"
            if embedded is not None:
                artifacts.copy_artifact(embedded, staged / embedded.kind)
                named += f"; {embedded.kind}: `{embedded.fingerprint}`"
            body = [*card.body, *(["", needs_in_words(plugins)] if plugins else []), "", named]
            if metrics:
                body += ["", "## Measured", "", artifacts.metrics_table(metrics)]
            artifacts.write_card(staged, card.title, card.tags, body, task=card.task)
        return fingerprint

    def _save(
        self,
        folder: Path | str,
        metrics: Mapping[str, float | int] | None,
        embedded: artifacts.Artifact | None = None,
    ) -> None:
        """Write the folder, and remember the fingerprint and the place."""
        self._fingerprint = self._write(Path(folder), metrics, embedded)
        self.origin = str(folder)

    def _push(
        self,
        repo: str,
        metrics: Mapping[str, float | int] | None,
        embedded: artifacts.Artifact | None = None,
        *,
        private: bool,
        revision: str | None,
        message: str | None,
    ) -> hub.Pushed:
        """The same on the Hub; returns the commit."""
        with tempfile.TemporaryDirectory(prefix="imagetok-") as temporary:
            folder = Path(temporary) / self.kind
            fingerprint = self._write(folder, metrics, embedded)
            pushed = artifacts.push_artifact(
                folder, repo, private=private, revision=revision, message=message
            )
        self._fingerprint, self.origin = fingerprint, pushed.origin
        return pushed

    def _architecture(self) -> dict[str, object]:
        """As it was loaded, so that keys added since change no fingerprint."""
        return self._loaded_architecture or self.config.model_dump(mode="json")
