"""Base class of models that are saved to folders, loaded from folders or the Hub, and pushed."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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
    """Content of a model card, apart from fingerprint and measures."""

    title: str
    tags: list[str]
    body: list[str]
    """Lines with a description of the model and its usage."""
    task: str | None = None
    """The Hub's name for the model's task, if it has one."""


class Pretrained(nn.Module, ABC, Generic[C]):
    """A model whose config determines its architecture, with a fingerprint.

    Saving raises ArtifactError, before anything is written, for a model whose weights differ from
    its config in names, shapes or dtypes, because it could not be loaded again.
    """

    kind: ClassVar[artifacts.Kind]
    """Kind of its artifact."""
    config: C
    """Config of the architecture."""
    origin: str | None = None
    """Folder, or user/name@commit on the Hub, from which it was loaded or to which it was saved."""
    _fingerprint: str | None = None
    _ancestry: artifacts.Ancestry | None = None
    _loaded_architecture: dict[str, object] | None = None

    @classmethod
    def from_pretrained(cls: type[Model], source: Path | str, revision: str | None = None) -> Model:
        """Load a model to the CPU, in eval mode.

        source: a folder, or a Hub id user/name[@revision].
        revision: the Hub id's branch, tag or commit.
        Raises ArtifactError if it does not exist, is damaged or is another kind of model,
        ResourceError if the Hub cannot be reached and the cache does not have it.
        """
        artifact = artifacts.read_artifact(source, cls.kind, revision)
        model = cls._load(artifact)
        if not isinstance(model, cls):
            raise ArtifactError(
                f"{artifact.origin}: expected a {cls.__name__}, found a {type(model).__name__}"
            )
        model._fingerprint, model.origin = artifact.fingerprint, artifact.origin
        model._loaded_architecture, model._ancestry = artifact.architecture, artifact.ancestry
        return model.requires_grad_(False).eval()

    @property
    def fingerprint(self) -> str:
        """Fingerprint that names the model: sha256 of config and weights.

        It belongs to the weights as saved or loaded; for a model that was never saved it is
        computed from the current weights.
        """
        if self._fingerprint is not None:
            return self._fingerprint
        return artifacts.fingerprint_of(
            self.kind, self._architecture(), self.state_dict(), self._ancestry
        )

    def check_finite(self) -> None:
        """Raise NotFiniteError for weights that are NaN or infinite."""
        for name, tensor in self.state_dict().items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise NotFiniteError(
                    f"{self.origin or f'this {self.kind}'}: expected finite weights, found NaN or "
                    f"infinity in {name}, because its training diverged; train it again with a "
                    "lower train.learning_rate or train.clip_norm=1.0, or use an earlier checkpoint"
                )

    @staticmethod
    @abstractmethod
    def _load(artifact: artifacts.Artifact) -> "Pretrained[Any]":
        """Build the model of an artifact and load its weights."""

    @abstractmethod
    def _skeleton(self) -> nn.Module:
        """Build the model that the saved architecture describes, on the meta device."""

    @abstractmethod
    def _card(self) -> Card: ...

    def _check_can_be_saved(self, folder: Path) -> None:
        """Raise ArtifactError for a model that could not be loaded again from `folder`."""
        with torch.random.fork_rng(devices=[]):  # some parts of the skeleton use the CPU's RNG
            artifacts.check_fits(self, self._skeleton(), folder)

    def _write(
        self,
        folder: Path,
        metrics: Mapping[str, float | int] | None,
        embedded: artifacts.Artifact | None = None,
        notes: Sequence[str] = (),
    ) -> str:
        """Write the artifact folder durably; return the fingerprint.

        embedded: an artifact that is copied into this one, to a subfolder named by its kind. notes:
        paragraphs for the model card.
        """
        self._check_can_be_saved(folder)
        card = self._card()
        with staged_folder(folder) as staged:
            plugins = records_of(self.config)
            fingerprint = artifacts.write_artifact(
                staged, self.kind, self._architecture(), self, plugins, self._ancestry
            )
            named = f"Fingerprint: `{fingerprint}`"
            if embedded is not None:
                artifacts.copy_artifact(embedded, staged / embedded.kind)
                named += f"; {embedded.kind}: `{embedded.fingerprint}`"
            needs = [needs_in_words(plugins)] if plugins else []
            paragraphs = [line for text in (*needs, *notes, named) for line in ("", text)]
            body = [*card.body, *paragraphs]
            if metrics:
                body += ["", "## Measured", "", artifacts.metrics_table(metrics)]
            artifacts.write_card(staged, card.title, card.tags, body, task=card.task)
        return fingerprint

    def _save(
        self,
        folder: Path | str,
        metrics: Mapping[str, float | int] | None,
        embedded: artifacts.Artifact | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Write the artifact folder; set fingerprint and origin."""
        self._fingerprint = self._write(Path(folder), metrics, embedded, notes)
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
        """Write the artifact and push it to the Hub; set fingerprint and origin."""
        with tempfile.TemporaryDirectory(prefix="imagetok-") as temporary:
            folder = Path(temporary) / self.kind
            fingerprint = self._write(folder, metrics, embedded)
            pushed = artifacts.push_artifact(
                folder, repo, private=private, revision=revision, message=message
            )
        self._fingerprint, self.origin = fingerprint, pushed.origin
        return pushed

    def _architecture(self) -> dict[str, object]:
        """Return the architecture as loaded, so that keys added later keep the fingerprint."""
        return self._loaded_architecture or self.config.model_dump(mode="json")
