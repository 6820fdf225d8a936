"""The base class of priors: autoregressive distributions over the codes of a tokenizer."""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from imagetok import artifacts, hub
from imagetok.arguments import checked_count
from imagetok.code_maps import check_codes
from imagetok.codes.fingerprint import check_same_tokenizer
from imagetok.data.class_names import in_spelling_of
from imagetok.data.config import split_at_commas
from imagetok.data.labels_and_splits import whole_number
from imagetok.errors import ConfigError, InputError
from imagetok.eval_mode import eval_mode
from imagetok.pretrained import Card, Pretrained
from imagetok.processes import device_of
from imagetok.suggestions import counted, did_you_mean, shown
from prior.captured_sampling import OPTION, StartStatic, check_device
from prior.config import PriorConfig
from prior.sampling import SampleSpec, given_codes, sample_codes
from prior.sampling_params import sampling_params
from prior.sequence import Codes, unflatten_codes
from prior.stepper import NO_LABEL, Stepper

logger = logging.getLogger("imagetok")
Label = int | str | Sequence[int | str] | Tensor | np.ndarray | None
"""A class by name or number, several classes in turn, `all` or `none`; see `Prior.sample`."""


class Prior(Pretrained[PriorConfig], ABC):
    """An autoregressive model p(codes | label) of the codes of one tokenizer.

    >>> prior = Prior.from_pretrained("runs/digits-gpt/prior")
    >>> codes = prior.sample(16, label=3, seed=0)   # tuple of (16, h, w) int64
    """

    kind = "prior"
    matrix_layers: tuple[type[nn.Module], ...] = ()
    """Layer types from outside torch whose `weight` is a matrix, which gets weight decay."""
    block_layers: tuple[type[nn.Module], ...] = ()
    """Layer types of the repeated blocks, whose weights FSDP gathers one block at a time; they are
    used inside the block's own `forward` only."""
    tokenizer_folder: Path | None = None
    """Local folder of the embedded tokenizer; None before the prior is loaded or saved."""
    _recomputes: bool = False

    @abstractmethod
    def forward(
        self, codes: Codes, labels: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B _K _h _w"], ...]:
        """Return the logits of every position given all earlier codes (teacher forcing), per level.

        codes: (B, h, w) per level, coarse to fine. labels: classes in [0, num_classes), or -1 for
        no class. Returns (B, K, h, w) per level.
        """

    @abstractmethod
    def stepper(self, labels: Int[Tensor, " B"]) -> Stepper:
        """Return a stepper that samples one image per label (-1: no class)."""

    def prepare(self) -> Callable[[Int[Tensor, " B"]], Stepper]:
        """Return a function like `stepper`, for sampling many micro-batches with fixed weights.

        A prior that rearranges its weights for sampling does so here, once for all micro-batches.
        """
        return self.stepper

    def prepare_static(self) -> StartStatic:
        """Return a function like that of `prepare`, for steps that a CUDA graph can hold.

        Raises ConfigError for a prior whose steps cannot be a fixed sequence of kernels.
        """
        kind = self.config.model.kind
        raise ConfigError(
            f"{OPTION}: a prior of kind gpt or pixelsnail can be sampled so, found {kind}, whose "
            "steps are not written as a fixed sequence of kernels; leave it out"
        )

    @property
    def _no_split_modules(self) -> list[str]:
        """Names of the types of blocks that it has, as Accelerate reads them for FSDP."""
        found = {type(m).__name__ for m in self.modules() if isinstance(m, self.block_layers)}
        return sorted(found)

    def recompute_activations(self) -> None:
        """Enable activation checkpointing: recompute activations inside blocks in backward."""
        self._recomputes = True

    def _through(self, block: nn.Module, *inputs: Tensor | None) -> Any:
        if self._recomputes and self.training:
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def log_prob(
        self, codes: Codes, labels: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, " B"]:
        """Return ln p of each image's codes, summed over all positions and levels."""
        levels = self.log_prob_map(codes, labels)
        return torch.cat([level.flatten(1) for level in levels], dim=1).sum(dim=1)

    def log_prob_map(
        self, codes: Codes, labels: Int[Tensor, " B"] | None = None
    ) -> tuple[Float[Tensor, "B _h _w"], ...]:
        """Return ln p of every code given all earlier codes, per level.

        labels: a class per image, or -1 for no class; None means -1 for all images.
        Raises InputError for codes with other grids or out of range, and for unknown classes.
        """
        codes = self.check_codes(codes)
        if labels is None:
            labels = torch.full_like(codes[0][:, 0, 0], NO_LABEL)
        self.check_labels(labels, len(codes[0]))
        labels = labels.long()
        if not len(labels):
            return tuple(torch.zeros(level.shape, device=level.device) for level in codes)
        with eval_mode(self), torch.no_grad():
            nll = negative_log_likelihood(self(codes, labels), codes)
        return unflatten_codes(-nll, self.config.grids)

    def sample(
        self,
        n: int,
        *,
        label: Label = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float = 1.0,
        greedy: bool = False,
        seed: int = 0,
        first: int = 0,
        given: tuple[Int[Tensor, "N _h _w"], ...] | None = None,
        keep_rows: int | None = None,
        micro_batch: int | None = None,
        cuda_graphs: bool = False,
    ) -> Codes:
        """Sample the codes of images first .. first + n - 1 of a seed.

        Sample j depends only on the seed, j, its label, the given codes and the sampling
        parameters: not on n, nor on the samples drawn with it.

        label: a class by name or number, or several, repeated over the images (image j gets
        label[j % len]): a sequence, or a text with commas, `\\,` for a comma in a name. "all": all
        classes in turn; "none" or -1: no class; None: "all" if the prior has classes and no codes
        are given, else "none". Names come first, whatever the type: with classes named 1, 2, 10,
        both 2 and "2" mean the class named 2. temperature: > 0.
        top_k: sample from the k most likely codes. top_p: sample from the most likely codes that
        together reach this probability, in (0, 1]. greedy: always choose the most likely code.
        guidance: classifier-free guidance, >= 0; 1 is off, larger values follow the label more
        (logits = u + guidance * (c - u)) and need a label.

        given, keep_rows: complete images from their upper rows of codes. Image j keeps the upper
        rows of given[j % len] exactly, and the other codes are sampled in order; for the meaning
        of keep_rows see `kept_positions`. With one level this samples p(rest | kept rows, label);
        with several, the lower rows of a coarse level do not depend on the kept rows of finer ones.

        micro_batch: images computed at once, the last ones padded; None is 16 on a CPU and 64 on a
        GPU. Logits may depend on it by rounding.
        cuda_graphs: record the steps of sampling as CUDA graphs and launch each as a whole; never
        run on a GPU yet. Logits then differ by rounding.

        Returns a tuple of (n, h, w) int64 on the prior's device. Raises ConfigError for parameters
        out of range, and for cuda_graphs on another device than a CUDA GPU or with another prior
        than a GPT or PixelSNAIL; InputError for given codes that do not fit.
        """
        n, first = checked_count("n", n, least=0), checked_count("first", first, least=0)
        if micro_batch is not None:
            checked_count("micro_batch", micro_batch)
        params = sampling_params(
            temperature=temperature, top_k=top_k, top_p=top_p, greedy=greedy, guidance=guidance,
            seed=seed,
        )  # fmt: skip
        if top_k is not None and top_k > max(self.config.num_codes):
            raise ConfigError(
                f"top_k: expected at most the codebook size {max(self.config.num_codes)}, found "
                f"{top_k}; lower it, or omit it"
            )
        if label is None and given is not None:
            label = NO_LABEL
        labels = self.labels_for(label)
        if guidance != 1 and set(labels) == {NO_LABEL}:
            raise ConfigError(
                f"guidance: found {guidance}, but no class to guide towards; pass a label, or omit "
                "guidance"
            )
        unlabelled = guidance != 1 or NO_LABEL in labels
        if unlabelled and self.config.num_classes and self.config.label_dropout == 0:
            raise ConfigError(
                "this prior was trained with label_dropout 0, so it cannot sample without a class: "
                "guidance and label none (-1) need a prior trained with label_dropout > 0; pass a "
                "class, without guidance"
            )
        device, grids = device_of(self), self.config.grids
        if given is not None and keep_rows is not None:
            given = self.check_codes(given)
        spec = SampleSpec(labels, params, given_codes(given, keep_rows, grids, device))
        prepare = self.prepare_static if cuda_graphs else self.prepare
        if cuda_graphs:
            check_device(device)
        with eval_mode(self):
            return sample_codes(
                prepare, grids, device, spec, range(first, first + n),
                micro_batch=micro_batch, cuda_graphs=cuda_graphs,
            )  # fmt: skip

    def labels_for(self, label: Label) -> list[int]:
        """Return the numbers of the classes that sampling cycles through, -1 for no class.

        label: as for `sample`; None means all classes. Raises ConfigError for an unknown class.
        """
        if label is None:
            return self._all_classes()
        if isinstance(label, Tensor | np.ndarray):
            label = label.tolist()
        if isinstance(label, list | tuple | range):
            return [self._label(one) for one in label] or [NO_LABEL]
        text, names = str(label), self.config.class_names
        if text == "all" and "all" not in names and self.config.num_classes:
            return self._all_classes()
        parts = split_at_commas(text) if isinstance(label, str) and text not in names else []
        return [self._label(one.strip()) for one in parts] or [self._label(label)]

    def _all_classes(self) -> list[int]:
        return list(range(self.config.num_classes)) or [NO_LABEL]

    def _label(self, label: object) -> int:
        """Return the number of a class given by name or number; -1 for no class.

        Names come first, whatever the type of `label`. If all names are numbers, no other number is
        accepted as a position in their list, because users would mean a name.
        """
        classes, names = self.config.num_classes, self.config.class_names
        text = in_spelling_of(str(label), names)
        digits = "-1" if text == "none" else text
        number = int(digits) if re.fullmatch(r"-?[0-9]{1,9}", digits) else None
        if text in names:
            named = names.index(text)
            if number is not None and 0 <= number < classes and number != named:
                logger.warning(
                    "label %s: the class of this name, number %d, not number %d, which is %s",
                    *(text, named, number, shown(names[number])),
                )
            return named
        are_numbers = all(whole_number(name) is not None for name in names)
        are_numbers &= names != tuple(map(str, range(len(names))))
        if number == NO_LABEL or (number is not None and 0 <= number < classes and not are_numbers):
            return number
        if not classes:
            raise ConfigError(
                f"label: found {label!r}, but this prior was trained without classes; omit it"
            )
        some = f"class name like {', '.join(names[:3])}"
        words = "all or none (-1)"
        expected = f"a {some}, {words}" if are_numbers else f"0..{classes - 1}, {words}"
        expected += f", or a {some}" if names and not are_numbers else ""
        raise ConfigError(
            f"label: expected {expected}; found {shown(label)}"
            f"{did_you_mean(label, (*names, 'all', 'none'))}"
        )

    def check_tokenizer(self, fingerprint: str, what: str) -> None:
        """Raise ShardError unless the fingerprint is that of this prior's tokenizer."""
        expected = self.config.tokenizer_fingerprint
        remedy = "use the one embedded in the prior's folder, or train a prior on these codes"
        check_same_tokenizer(what, fingerprint, expected, "this prior's tokenizer", remedy)

    def check_codes(self, codes: Codes) -> Codes:
        """Return codes as int64; InputError for other levels, grids or range than this prior's."""
        return check_codes(codes, self.config.num_codes, self.config.grids)

    def check_labels(self, labels: Int[Tensor, " B"], count: int | None = None) -> None:
        """Raise InputError for labels that are neither a class of this prior nor -1.

        count: the number of images, each of which needs a label.
        """
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.ndim != 1:
            what = isinstance(labels, Tensor)
            found = f"{labels.dtype} {tuple(labels.shape)}" if what else type(labels).__name__
            raise InputError(
                f"expected labels as an integer tensor of shape (B,), found {found}; pass "
                "torch.tensor([...])"
            )
        if count is not None and len(labels) != count:
            raise InputError(
                f"expected a label for each of {counted(count, 'image')}, found {len(labels)}"
            )
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
        """Write the artifact folder durably, including the tokenizer's folder.

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
        """Upload the prior and its tokenizer to user/name on the Hub in one commit; return it.

        tokenizer, metrics: as for `save_pretrained`; None is the embedded tokenizer. private:
        visibility of a new repository. revision: a branch, created if missing. To upload an
        existing folder with its model card, use `imagetok push`.
        """
        tokenizer = tokenizer or self.tokenizer_folder
        if tokenizer is None:
            raise ConfigError(
                "push_to_hub: pass tokenizer=..., the tokenizer of this prior's codes"
            )
        embedded = self._embedded(tokenizer)
        return self._push(
            repo, metrics, embedded, private=private, revision=revision, message=message
        )

    def _embedded(self, tokenizer: Path | str) -> artifacts.Artifact:
        """Read the tokenizer to embed; raise ShardError if it is not the tokenizer of the codes."""
        source = artifacts.read_artifact(tokenizer, "tokenizer")
        self.check_tokenizer(source.codes_fingerprint, str(tokenizer))
        return source

    def _card(self) -> Card:
        kind = self.config.model.kind
        body = [
            f"An autoregressive prior ({kind}) over image codes, in the format of imagetok. The "
            "tokenizer of these codes is in `tokenizer/`.",
            "",
            "```",
            f"imagetok sample --prior {artifacts.HERE} -n 16 --out samples",
            "```",
        ]
        # The Hub's name for image generation without a text prompt.
        task = "unconditional-image-generation"
        return Card(f"{kind} prior", ["image-generation", kind], body, task)

    @staticmethod
    def _load(artifact: artifacts.Artifact) -> "Prior":
        from prior.build import load_prior  # imports the subclasses of this class

        return load_prior(artifact)

    def _skeleton(self) -> "Prior":
        from prior.build import build_skeleton

        return build_skeleton(self._architecture(), "the config of this prior")


def negative_log_likelihood(
    logits: tuple[Float[Tensor, "B _K _h _w"], ...], codes: Codes
) -> Float[Tensor, "B T"]:
    """Return -ln p of each code under its logits, (B, T) in sampling order."""
    parts = []
    for level, indices in zip(logits, codes, strict=True):
        # Not `cross_entropy`, which has no deterministic form for grids on a GPU.
        log_p = level.float().log_softmax(dim=1).gather(1, indices[:, None])
        parts.append(-log_p.flatten(1))
    return torch.cat(parts, dim=1)


def bits_per_code(nll: Float[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Return the mean negative log-likelihood of a code in bits."""
    return nll.mean() / torch.full((), 2.0, device=nll.device).log()
