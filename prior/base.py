"""What a prior is: an autoregressive distribution over the codes of one tokenizer."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from imagetok import artifacts, hub
from imagetok.codes.fingerprint import check_same_tokenizer
from imagetok.errors import ConfigError, InputError
from imagetok.eval_mode import eval_mode
from imagetok.pretrained import Card, Pretrained
from imagetok.processes import device_of
from imagetok.suggestions import did_you_mean
from prior.config import PriorConfig
from prior.sampling import SampleSpec, given_codes, sample_codes
from prior.sampling_params import sampling_params
from prior.sequence import Codes, unflatten_codes
from prior.stepper import NO_LABEL, Stepper


class Prior(Pretrained[PriorConfig], ABC):
    """p(codes | label) of one tokenizer's codes.

    >>> prior = Prior.from_pretrained("runs/digits-gpt/prior")
    >>> codes = prior.sample(16, label=3, seed=0)   # tuple of (16, h, w) int64
    """

    kind = "prior"
    matrix_layers: tuple[type[nn.Module], ...] = ()
    """Layers of another library than torch whose `weight` is a matrix, for weight decay."""
    tokenizer_folder: Path | None = None
    """Local folder of the tokenizer that is embedded in what was loaded or saved last."""
    _recomputes: bool = False

    @abstractmethod
    def forward(
        self, codes: Codes, labels: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B _K _h _w"], ...]:
        """Logits of every position given all earlier ones (teacher forcing), per level.

        labels: classes in [0, num_classes), or -1 for none.
        """

    @abstractmethod
    def stepper(self, labels: Int[Tensor, " B"]) -> Stepper:
        """Start sampling one image for each label (-1 = none)."""

    def prepare(self) -> Callable[[Int[Tensor, " B"]], Stepper]:
        """`stepper` for many micro-batches, while the weights stay as they are.

        A prior that has to lay out its weights for sampling does it here, once for all of them.
        """
        return self.stepper

    def recompute_activations(self) -> None:
        """From now on training keeps what lies between blocks only, and computes the rest again."""
        self._recomputes = True

    def _through(self, block: nn.Module, *inputs: Tensor | None) -> Any:
        if self._recomputes and self.training:
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def log_prob(
        self, codes: Codes, labels: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, " B"]:
        """Natural-log probability of each image's codes, summed over all positions and levels."""
        levels = self.log_prob_map(codes, labels)
        return torch.cat([level.flatten(1) for level in levels], dim=1).sum(dim=1)

    def log_prob_map(
        self, codes: Codes, labels: Int[Tensor, " B"] | None = None
    ) -> tuple[Float[Tensor, "B _h _w"], ...]:
        """Natural-log probability of every code given all before it, per level.

        labels: a class for each image, or -1 for none; None stands for -1 everywhere. Raises
        InputError for codes of other grids or out of range, and for classes that it does not know.
        """
        self.check_codes(codes)
        if labels is None:
            labels = torch.full_like(codes[0][:, 0, 0], NO_LABEL)
        self.check_labels(labels)
        with eval_mode(self), torch.no_grad():
            nll = negative_log_likelihood(self(codes, labels), codes)
        return unflatten_codes(-nll, self.config.grids)

    def sample(
        self,
        n: int,
        *,
        label: int | str | Sequence[int | str] | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float = 1.0,
        greedy: bool = False,
        seed: int = 0,
        first: int = 0,
        given: tuple[Int[Tensor, "N _h _w"], ...] | None = None,
        keep_rows: int | None = None,
    ) -> Codes:
        """Draw the codes of images first .. first + n - 1 of a seed.

        Image j depends on (seed, j, its label, the given codes and the settings) only: not on n,
        nor on what is drawn beside it. label: one class by number or name; a sequence, repeated
        over the images (image j gets label[j % len]); "all" for every class in turn; "none" or -1
        for no class. None is "all" where the prior knows classes and no codes are given, else
        "none". temperature: above 0. top_k: keep only the k most likely codes; top_p: keep the
        most likely codes that together reach this probability; greedy: take the most likely code.
        guidance: 1 is off; larger follows the label more (logits = u + guidance * (c - u)), which
        needs one.

        given, keep_rows: complete images from their upper code rows. Image j keeps these of
        given[j % len] exactly and draws the rest, in sampling order; `kept_positions` says what
        keep_rows counts. With one level that is p(rest | given rows, label); with several, later
        rows of a coarse level are drawn without heed of what is given of finer ones.

        Returns a tuple of (n, h, w) int64 on the prior's device. Raises ConfigError for settings
        out of range, InputError for given codes that do not fit.
        """
        params = sampling_params(
            temperature=temperature, top_k=top_k, top_p=top_p, greedy=greedy, guidance=guidance,
            seed=seed,
        )  # fmt: skip
        if top_k is not None and top_k > max(self.config.num_codes):
            raise ConfigError(
                f"top_k: found {top_k}, but the codes are {max(self.config.num_codes)}; "
                "choose fewer, or leave it out"
            )
        if label is None and given is not None:
            label = NO_LABEL
        labels = self.labels_for(label)
        if guidance != 1 and set(labels) == {NO_LABEL}:
            raise ConfigError(
                f"guidance: found {guidance}, which follows a class more, but none is given; give "
                "a label, or leave guidance out"
            )
        unlabelled = guidance != 1 or NO_LABEL in labels
        if unlabelled and self.config.num_classes and self.config.label_dropout == 0:
            raise ConfigError(
                "this prior was trained with label_dropout 0 and knows no images without a class: "
                "guidance and no label (none, -1) need one trained with label_dropout > 0; give a "
                "class"
            )
        device, grids = device_of(self), self.config.grids
        if given is not None and keep_rows is not None:
            self.check_codes(given)
        spec = SampleSpec(labels, params, given_codes(given, keep_rows, grids, device))
        with eval_mode(self):
            return sample_codes(self.prepare, grids, device, spec, range(first, first + n))

    def labels_for(self, label: int | str | Sequence[int | str] | None) -> list[int]:
        """The labels that sampling repeats over the images; ConfigError for an unknown one."""
        classes = list(range(self.config.num_classes))
        if label is None or (label == "all" and classes):
            return classes or [NO_LABEL]
        asked = [label] if isinstance(label, int | str) else list(label)
        return [self._label(one) for one in asked] or [NO_LABEL]

    def _label(self, label: int | str) -> int:
        """A class by number or name, or -1."""
        classes, names = self.config.num_classes, self.config.class_names
        if label in names:
            return names.index(str(label))
        text = NO_LABEL if label == "none" else label
        number = int(text) if re.fullmatch(r"-?[0-9]{1,9}", str(text)) else None
        if number is not None and (number == NO_LABEL or 0 <= number < classes):
            return number
        if not classes:
            raise ConfigError(
                f"label: found {label!r}, but this prior was trained without classes; leave it out"
            )
        some = f", or a name like {', '.join(names[:3])}" if names else ""
        raise ConfigError(
            f"label: expected 0..{classes - 1}, all or none (-1){some}; found {label!r}"
            f"{did_you_mean(label, (*names, 'all', 'none'))}"
        )

    def check_tokenizer(self, fingerprint: str, what: str) -> None:
        """Refuse codes, or a decoder, of another tokenizer."""
        expected = self.config.tokenizer_fingerprint
        remedy = "use the one embedded in the prior's folder, or train a prior on these codes"
        check_same_tokenizer(what, fingerprint, expected, "this prior's tokenizer", remedy)

    def check_codes(self, codes: Codes) -> None:
        """Refuse codes whose levels, grids or range are not this prior's."""
        found = tuple(tuple(level.shape[1:]) for level in codes)
        if found != self.config.grids:
            raise InputError(f"expected code maps of {self.config.grids}, found {found}")
        for level, k in zip(codes, self.config.num_codes, strict=True):
            if level.is_floating_point():
                raise InputError(f"expected integer codes, found {level.dtype}")
            if level.numel() and (int(level.min()) < 0 or int(level.max()) >= k):
                raise InputError(f"expected codes in [0, {k}), found up to {int(level.max())}")

    def check_labels(self, labels: Int[Tensor, " B"]) -> None:
        """Refuse labels that are neither a class of this prior nor -1."""
        classes = self.config.num_classes
        if labels.numel() and not (int(labels.min()) >= NO_LABEL and int(labels.max()) < classes):
            low, high = int(labels.min()), int(labels.max())
            why = "" if classes else "; this prior was trained without classes"
            raise InputError(f"expected labels in [-1, {classes}), found [{low}, {high}]{why}")

    def save_pretrained(
        self,
        folder: Path | str,
        tokenizer: Path | str,
        metrics: dict[str, float | int] | None = None,
    ) -> None:
        """Write the artifact folder durably, with the tokenizer's folder embedded.

        tokenizer: folder or Hub id of the tokenizer whose codes this prior models. metrics:
        measured values by name for the model card.
        """
        self._save(folder, metrics, self._embedded(tokenizer))
        self.tokenizer_folder = Path(folder) / "tokenizer"

    def push_to_hub(
        self,
        repo: str,
        tokenizer: Path | str | None = None,
        metrics: dict[str, float | int] | None = None,
        *,
        private: bool = False,
        revision: str | None = None,
        message: str | None = None,
    ) -> hub.Pushed:
        """Share it, with its tokenizer, as user/name on the Hub, in one commit; returns the commit.

        tokenizer, metrics: as for `save_pretrained`; None takes the embedded tokenizer. private:
        of a new repository. revision: a branch, made if need be. To share a folder with its card
        as it is, use `imagetok push`.
        """
        tokenizer = tokenizer or self.tokenizer_folder
        if tokenizer is None:
            raise ConfigError("push_to_hub: name the tokenizer whose codes this prior models")
        embedded = self._embedded(tokenizer)
        return self._push(
            repo, metrics, embedded, private=private, revision=revision, message=message
        )

    def _embedded(self, tokenizer: Path | str) -> artifacts.Artifact:
        """The tokenizer that the artifact contains; ShardError for another one than the codes'."""
        source = artifacts.read_artifact(tokenizer, "tokenizer")
        self.check_tokenizer(source.fingerprint, str(tokenizer))
        return source

    def _card(self) -> Card:
        kind = self.config.model.kind
        body = [
            f"An autoregressive prior ({kind}) over image codes, made with imagetok. The "
            "tokenizer that its codes belong to is in `tokenizer/`.",
            "",
            "```",
            f"imagetok sample --prior {artifacts.HERE} -n 16 --out samples",
            "```",
        ]
        # Of the Hub's tasks: not made from a text.
        task = "unconditional-image-generation"
        return Card(f"{kind} prior", ["image-generation", kind], body, task)

    @staticmethod
    def _load(artifact: artifacts.Artifact) -> "Prior":
        from prior.build import load_prior  # it knows the leaves of this class

        return load_prior(artifact)

    def _skeleton(self) -> "Prior":
        from prior.build import build_skeleton

        return build_skeleton(self._architecture(), "the config of this prior")


def negative_log_likelihood(
    logits: tuple[Float[Tensor, "B _K _h _w"], ...], codes: Codes
) -> Float[Tensor, "B T"]:
    """-ln p of each code under its logits, positions in sampling order."""
    parts = [
        nn.functional.cross_entropy(level.float(), indices, reduction="none").flatten(1)
        for level, indices in zip(logits, codes, strict=True)
    ]
    return torch.cat(parts, dim=1)


def bits_per_code(nll: Float[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of a code in bits."""
    return nll.mean() / torch.log(torch.tensor(2.0, device=nll.device))
