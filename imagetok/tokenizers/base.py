"""What an autoencoder and a tokenizer are, whatever their network and quantizer."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from imagetok import artifacts, hub
from imagetok.errors import InputError, NotFiniteError
from imagetok.eval_mode import eval_mode
from imagetok.images import ImageContract, Images, check_images, clamp_pixels
from imagetok.pretrained import Card, Pretrained
from imagetok.quantizers import Codes
from imagetok.tokenizers.config import TokenizerConfig


class Reconstruction(NamedTuple):
    """What an autoencoder returns in training."""

    x_hat: Images
    """On the scale of [0, 1], not clamped; of label maps the most likely classes."""
    losses: dict[str, Tensor]
    """Unweighted scalars by name: `reconstruction` and the quantizer's."""
    indices: Codes
    """Hard codes per level; empty for a continuous autoencoder."""
    stats: dict[str, Tensor]
    """What `update` needs, combined over micro-batches and ranks as `Quantized.stats` says."""


def check_features(h: Float[Tensor, "B C H W"]) -> None:
    """Refuse encoder outputs that are not finite: their codes would be arbitrary.

    Raises NotFiniteError with the images that they belong to. It waits for the device, so it has
    no place in a training step, where the loss tells.
    """
    if bool(h.isfinite().all()):
        return
    bad = (~h.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
    raise NotFiniteError(
        f"the encoder's output is NaN or infinite for {len(bad)} of the batch's {len(h)} images, "
        f"first for image {bad[0]}; its weights have diverged, or overflow in {h.dtype}: encode in "
        "float32, or train it again with a lower train.learning_rate or train.clip_norm=1.0"
    )


class Autoencoder(Pretrained[TokenizerConfig], ABC):
    """Takes images to images; trained by the loop, measured by the evaluation, kept in a folder.

    `Autoencoder.from_pretrained` loads a tokenizer, too.
    """

    kind = "autoencoder"
    image: ImageContract
    num_codes: tuple[int, ...] = ()
    """K of each level of codes."""

    @abstractmethod
    def forward(
        self,
        images: Images,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Reconstruction:
        """The training path: pixels in [0, 1] or classes (not checked), noise from `generator`."""

    @abstractmethod
    def reconstruct(self, images: Tensor, *, generator: torch.Generator | None = None) -> Images:
        """Images and back by the test-time path, pixels not clamped; no gradient.

        Raises InputError for anything but images of `self.image`: (B, C, H, W) pixels in [0, 1], or
        (B, H, W) classes. generator: only for
        a test rule that samples.
        """

    def update(
        self, stats: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Bool[Tensor, " K"]]:
        """Change running state once per optimizer step; see `Quantizer.update`."""
        del stats, generator
        return {}

    def save_pretrained(
        self, folder: Path | str, metrics: dict[str, float | int] | None = None
    ) -> None:
        """Write the artifact folder durably and remember its fingerprint.

        metrics: measured values by name (with their split in the name) for the model card.
        """
        self._save(folder, metrics)

    def push_to_hub(
        self,
        repo: str,
        metrics: dict[str, float | int] | None = None,
        *,
        private: bool = False,
        revision: str | None = None,
        message: str | None = None,
    ) -> hub.Pushed:
        """Share it as user/name on the Hub, in one commit; returns the commit.

        metrics: as for `save_pretrained`. private: of a new repository. revision: a branch, made
        if need be. To share a folder with its card as it is, use `imagetok push`.
        """
        return self._push(repo, metrics, private=private, revision=revision, message=message)

    @abstractmethod
    def _usage(self) -> list[str]:
        """What it is and how it is used, lines of its model card."""

    def _card(self) -> Card:
        method = self.config.method
        return Card(
            f"{' '.join(method)} {self.kind}", [f"image-{self.kind}", *method], self._usage()
        )

    @staticmethod
    def _load(artifact: artifacts.Artifact) -> "Autoencoder":
        from imagetok.tokenizers.build import load_autoencoder  # it knows the leaves of this class

        return load_autoencoder(artifact)

    def _skeleton(self) -> "Autoencoder":
        from imagetok.tokenizers.build import build_skeleton

        return build_skeleton(self._architecture(), "the config of this model")


class Tokenizer(Autoencoder, ABC):
    """An autoencoder with codes in the middle: a tuple of index maps, coarse to fine.

    `Tokenizer.from_pretrained` refuses a VAE, which has none.

    >>> tokenizer = Tokenizer.from_pretrained("runs/digits-edvae/tokenizer")
    >>> codes = tokenizer.encode(images)  # (B, C, H, W) in [0, 1] -> tuple of (B, h, w) int64
    >>> x_hat = tokenizer.decode(codes)   # -> (B, C, H, W) in [0, 1]
    """

    kind = "tokenizer"
    grids: tuple[tuple[int, int], ...]
    """(h, w) of each level."""

    def encode(self, images: Tensor, *, generator: torch.Generator | None = None) -> Codes:
        """Codes of images.

        images: (B, C, H, W) floating point in [0, 1] of the size and channels of `self.image`, or
        label maps (B, H, W) int64 if it is for those, on the tokenizer's device; anything else is
        refused with InputError. Returns a tuple of
        (B, h, w) int64 maps, coarse to fine. generator: only for a test rule that samples.
        """
        check_images(images, self.image)
        with eval_mode(self), torch.no_grad():
            return self._encode(images, generator)

    def encode_with_certainty(
        self, images: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Codes, dict[str, Tensor]]:
        """Codes as from `encode`, and maps (B, h, w) of how sure the encoder was.

        `entropy` in nats, `top_logit`, `uncertainty`: see `Quantizer.certainty`. With a quantizer
        per level the names carry the level, as in `entropy_level0`.
        """
        check_images(images, self.image)
        with eval_mode(self), torch.no_grad():
            return self._encode_with_certainty(images, generator)

    def encode_between(
        self,
        images: Tensor,
        others: Tensor,
        share: Float[Tensor, " B"],
        *,
        generator: torch.Generator | None = None,
    ) -> Codes:
        """Codes of what lies between each pair of images: of (1 - share) z + share z', where z and
        z' are what the encoder gives for them, level by level.

        images, others: as for `encode`, equally many. share: in [0, 1]; 0 gives the codes of the
        first, 1 those of the second.
        """
        check_images(images, self.image)
        check_images(others, self.image)
        with eval_mode(self), torch.no_grad():
            return self._encode_between(images, others, share.view(-1, 1, 1, 1), generator)

    def decode(self, codes: Codes) -> Images:
        """Images of codes (a tuple of integer (B, h, w) maps, coarse to fine).

        (B, C, H, W) pixels in [0, 1], or (B, H, W) int64 classes of a tokenizer of label maps.

        Raises InputError when levels, shapes, dtype or range do not fit this tokenizer.
        """
        self._check_codes(codes)
        with eval_mode(self), torch.no_grad():
            return clamp_pixels(self._decode(tuple(level.long() for level in codes)))

    def reconstruct(self, images: Tensor, *, generator: torch.Generator | None = None) -> Images:
        codes = self.encode(images, generator=generator)
        with eval_mode(self), torch.no_grad():
            return self._decode(codes)

    @abstractmethod
    def codebook(self, level: int) -> Float[Tensor, "K D"] | None:
        """What a decoder is given for each code of a level; None for one of residual levels."""

    @abstractmethod
    def _encode(self, images: Tensor, generator: torch.Generator | None) -> Codes: ...

    @abstractmethod
    def _encode_with_certainty(
        self, images: Tensor, generator: torch.Generator | None
    ) -> tuple[Codes, dict[str, Tensor]]: ...

    @abstractmethod
    def _encode_between(
        self, images: Tensor, others: Tensor, share: Tensor, generator: torch.Generator | None
    ) -> Codes: ...

    @abstractmethod
    def _decode(self, codes: Codes) -> Tensor: ...

    def _usage(self) -> list[str]:
        image = self.image
        if image.mode == "labels":
            made_for, takes = f"label maps of {image.num_classes} classes,", "int64 (B, H, W)"
        else:
            made_for, takes = f"images of {image.channels} x", "float (B, C, H, W) in [0, 1]"
        return [
            f"An image tokenizer ({', '.join(self.config.method)}) made with imagetok: "
            f"{made_for} {image.height} x {image.width}, codes of "
            f"{', '.join(f'{h} x {w}' for h, w in self.grids)} with K = "
            f"{', '.join(map(str, self.num_codes))}.",
            "",
            "```python",
            "from imagetok import Tokenizer",
            f'tokenizer = Tokenizer.from_pretrained("{artifacts.HERE}")',
            f"codes = tokenizer.encode(images)  # {takes}",
            "```",
        ]

    def _check_codes(self, codes: Codes) -> None:
        if not isinstance(codes, tuple) or len(codes) != len(self.num_codes):
            found = f"{len(codes)} levels" if isinstance(codes, tuple) else type(codes).__name__
            raise InputError(f"expected a tuple of {len(self.num_codes)} code maps, found {found}")
        for level, (indices, k, grid) in enumerate(
            zip(codes, self.num_codes, self.grids, strict=True)
        ):
            if indices.ndim != 3 or tuple(indices.shape[1:]) != grid:
                raise InputError(
                    f"level {level}: expected codes of shape (B, {grid[0]}, {grid[1]}), "
                    f"found {tuple(indices.shape)}"
                )
            dtype = indices.dtype
            if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
                raise InputError(f"level {level}: expected integer codes, found {dtype}")
            if indices.numel():
                low, high = (int(v) for v in indices.long().aminmax())
                if low < 0 or high >= k:
                    raise InputError(
                        f"level {level}: expected codes in [0, {k}), found [{low}, {high}]; "
                        "were they made by another tokenizer?"
                    )
