"""The base classes of autoencoders and tokenizers, for all networks and quantizers."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from imagetok import artifacts, hub
from imagetok.arguments import checked_count
from imagetok.code_maps import check_codes, grids_shown
from imagetok.config import validate
from imagetok.errors import ConfigError, InputError
from imagetok.eval_mode import eval_mode
from imagetok.images import ImageContract, Images, check_images, check_tensor, clamp_pixels
from imagetok.networks.vqgan import NoDecoder
from imagetok.precision import EncodePrecision, encoding_precision
from imagetok.pretrained import Card, Pretrained
from imagetok.processes import device_of
from imagetok.quantizers import Codes, KernelQuantizer
from imagetok.tokenizers.config import TokenizerConfig
from imagetok.tokenizers.deferred_checks import are_deferred, deferred_checks
from imagetok.tokenizers.likelihood import Likelihood

Model = TypeVar("Model", bound="Autoencoder")
TokenizerT = TypeVar("TokenizerT", bound="Tokenizer")
Part = Literal["encoder", "quantizer", "decoder"]
"""A part of an autoencoder. Codes depend on encoder and quantizer, on nothing in the decoder."""


class Reconstruction(NamedTuple):
    """Output of an autoencoder in training."""

    x_hat: Images
    """Pixels on the scale of [0, 1], not clamped; for label maps the most likely classes."""
    losses: dict[str, Tensor]
    """Unweighted scalar losses by name: `reconstruction` and those of the quantizer."""
    indices: Codes
    """Hard codes per level; empty for a continuous autoencoder."""
    stats: dict[str, Tensor]
    """Statistics for `update`, combined over micro-batches and ranks; see `Quantized.stats`."""


class Autoencoder(Pretrained[TokenizerConfig], ABC):
    """A model that encodes images and reconstructs them: a tokenizer or a VAE.

    `Autoencoder.from_pretrained` loads either.
    """

    kind = "autoencoder"
    image: ImageContract
    num_codes: tuple[int, ...] = ()
    """Codebook size K of each level; empty for a VAE."""
    prefixes: ClassVar[Mapping[Part, tuple[str, ...]]]
    """Names of the modules of quantizer and decoder; all others are of the encoder."""

    @abstractmethod
    def forward(
        self,
        images: Images,
        *,
        temperature: float | Tensor = 1.0,
        generator: torch.Generator | None = None,
    ) -> Reconstruction:
        """Run a training step's forward pass; pixels in [0, 1] or classes are not checked.

        temperature: of the quantizer's relaxation. generator: source of all noise.
        """

    @abstractmethod
    def reconstruct(self, images: Tensor, *, generator: torch.Generator | None = None) -> Images:
        """Reconstruct images in eval mode, without gradient; pixels are not clamped.

        images: (B, C, H, W) pixels in [0, 1], or (B, H, W) classes, as `self.image` states.
        generator: only used if the quantizer's `test_rule` is `sample`.
        Raises InputError for other images.
        """

    @abstractmethod
    def networks(self) -> list[nn.Module]:
        """Return the parts of encoder and decoder, each of which is called as a whole.

        Quantizers are not among them.
        """

    def part_of(self, name: str) -> Part:
        """Return the part that a parameter or buffer belongs to, by its name in the state dict."""
        for part, modules in self.prefixes.items():
            if any(name.startswith(f"{module}.") for module in modules):
                return part
        return "encoder"

    def tensors_of(self, *parts: Part) -> dict[str, Tensor]:
        """Return the tensors of the state dict that belong to these parts, by name."""
        state = self.state_dict()
        return {name: tensor for name, tensor in state.items() if self.part_of(name) in parts}

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the training step's forward pass in place; arguments: those of `torch.compile`.

        Every network becomes one graph, and so does the kernel of every quantizer that has one;
        other quantizers stay as they are. Names of parameters and of saved tensors do not change.
        """
        kernels = (part for part in self.modules() if isinstance(part, KernelQuantizer))
        for part in (*self.networks(), *kernels):
            part.compile(*args, **kwargs)

    def update(
        self, stats: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Bool[Tensor, " K"]]:
        """Update running state once per optimizer step; see `Quantizer.update`."""
        del stats, generator
        return {}

    def save_pretrained(
        self,
        folder: Path | str,
        metrics: dict[str, float | int] | None = None,
        *,
        notes: Sequence[str] = (),
    ) -> None:
        """Write the artifact folder durably and remember its fingerprint.

        metrics: measured values for the model card, by names that include the data split. notes:
        further paragraphs for the card, such as origin and license.
        """
        self._save(folder, metrics, notes=notes)

    def push_to_hub(
        self,
        repo: str,
        metrics: dict[str, float | int] | None = None,
        *,
        private: bool = False,
        revision: str | None = None,
        message: str | None = None,
    ) -> hub.Pushed:
        """Upload the model to user/name on the Hub in one commit; return it.

        metrics: as for `save_pretrained`. private: visibility of a new repository. revision: a
        branch, created if missing. To upload an existing folder with its model card, use
        `imagetok push`.
        """
        return self._push(repo, metrics, private=private, revision=revision, message=message)

    def at_size(self: Model, height: int, width: int, *, crop: bool = False) -> Model:
        """Return this model for images of another size; it shares the weights and fingerprint.

        >>> codes = tokenizer.at_size(96, 64).encode(images)  # (B, C, 96, 64)

        Images are cropped and resized to that size as to the model's own; with `crop`, the middle
        is cut out of larger ones without scaling. Raises InputError if the network takes images of
        its own size alone, ConfigError for a size that is no multiple of its stride.
        """
        height, width = checked_count("height", height), checked_count("width", width)
        if not crop and (height, width) == (self.image.height, self.image.width):
            return self
        network, own = self.config.network, self.config.image
        if (height, width) != (own.height, own.width) and not network.any_size:
            raise InputError(
                f"network {network.kind!r}: expected images of {own.height} x {own.width} pixels, "
                f"found {height} x {width}; it is not fully convolutional, so it takes images of "
                "its own size alone"
            )
        stride = self.stride
        if height % stride or width % stride:
            near = " x ".join(str(max(stride, side // stride * stride)) for side in (height, width))
            raise ConfigError(
                f"size: expected multiples of {stride}, the pixels per code of the coarsest level, "
                f"found {height} x {width}; the next smaller size is {near}"
            )
        sized = copy.copy(self)  # shares modules, parameters and buffers
        sized._fingerprint = self.fingerprint
        tree = self.image.model_dump() | {"height": height, "width": width}
        if crop:
            tree |= {"resize": "crop", "centre_crop": None}
        sized.image = validate(tree, ImageContract, "size")
        sized._fit_grids()
        return sized

    @property
    def stride(self) -> int:
        """Number that divides the sides of the images: pixels per code of the coarsest level."""
        (height, _), *_ = self.config.grids
        return self.config.image.height // height

    def _fit_grids(self) -> None:
        """Set the grids of codes, if there are any, for the size of `self.image`."""

    def _checked(self, images: Tensor) -> Tensor:
        """Return images in the precision of the weights; raise InputError if they do not fit."""
        check_tensor(images)
        device = device_of(self)
        if images.device != device:
            raise InputError(
                f"expected images on the {self.kind}'s device {device}, found {images.device}; "
                f'pass images.to("{device}")'
            )
        check_images(images, self.image, values=not are_deferred())
        if not images.is_floating_point():
            return images
        weights = (p.dtype for p in self.parameters() if p.is_floating_point())
        return images.to(next(weights, images.dtype))

    @abstractmethod
    def _usage(self) -> list[str]:
        """Return the description and usage of the model, as lines of its model card."""

    def _card(self) -> Card:
        method = self.config.method
        return Card(
            f"{' '.join(method)} {self.kind}", [f"image-{self.kind}", *method], self._usage()
        )

    @staticmethod
    def _load(artifact: artifacts.Artifact) -> "Autoencoder":
        from imagetok.tokenizers.build import (
            load_autoencoder,
        )  # imports the subclasses of this class

        return load_autoencoder(artifact)

    def _skeleton(self) -> "Autoencoder":
        from imagetok.tokenizers.build import build_skeleton

        return build_skeleton(self._architecture(), "the config of this model")


class Tokenizer(Autoencoder, ABC):
    """An autoencoder with discrete codes: a tuple of index maps, coarse to fine.

    `Tokenizer.from_pretrained` raises ArtifactError for a VAE, which has no codes.

    >>> tokenizer = Tokenizer.from_pretrained("runs/digits-edvae/tokenizer")
    >>> codes = tokenizer.encode(images)  # (B, C, H, W) in [0, 1] -> tuple of (B, h, w) int64
    >>> x_hat = tokenizer.decode(codes)   # -> (B, C, H, W) in [0, 1]
    """

    kind = "tokenizer"
    grids: tuple[tuple[int, int], ...]
    """Grid size (h, w) of each level."""
    likelihood: Likelihood
    """Converts images to inputs of the encoder, and outputs of the decoder to images."""
    _has_fixed_codes: bool = False

    @property
    def codes_fingerprint(self) -> str:
        """Fingerprint by which codes, and priors on them, refer to their tokenizer.

        That of the tokenizer itself, or, where its decoder alone was trained, of the tokenizer
        whose encoder and quantizer it has.
        """
        return self.fingerprint if self._ancestry is None else self._ancestry.codes_fingerprint

    def check_decodes(self) -> None:
        """Raise ArtifactError if the tokenizer only encodes."""
        for network in self.networks():
            if isinstance(network, NoDecoder):
                network.refuse()

    def fix_codes(self, source: "Tokenizer") -> None:
        """Fix encoder and quantizer, so that only the decoder learns.

        source: a saved tokenizer with the same weights, whose codes this one will have. From now
        on the fixed parts are in eval mode and have no gradients, and `forward` decodes the codes
        of `encode` and returns the reconstruction loss alone.
        """
        self._loaded_architecture = source._architecture()
        coding = self.tensors_of("encoder", "quantizer")
        self._ancestry = artifacts.Ancestry(
            source.codes_fingerprint, artifacts.encoder_hash(self._architecture(), coding)
        )
        self._fix_parts()

    def _fix_parts(self) -> None:
        self._has_fixed_codes = True
        for name, parameter in self.named_parameters():
            if self.part_of(name) != "decoder":
                parameter.requires_grad_(False)
        self.train(self.training)

    def train(self: TokenizerT, mode: bool = True) -> TokenizerT:
        if not self._has_fixed_codes:
            return super().train(mode)
        super().train(False)
        self.training = mode
        for name in self.prefixes["decoder"]:
            self.get_submodule(name).train(mode)
        return self

    def forward(
        self,
        images: Images,
        *,
        temperature: float | Tensor = 1.0,
        generator: torch.Generator | None = None,
    ) -> Reconstruction:
        if not self._has_fixed_codes:
            return self._forward(images, temperature, generator)
        # The checks of `encode` would wait for the device in every step.
        with torch.no_grad(), encoding_precision("float32", images.device), deferred_checks():
            codes = self._encode(images, generator)
        out = self._decoder_output(codes)
        losses = {"reconstruction": self.likelihood.loss(out, images)}
        return Reconstruction(self.likelihood.to_image(out), losses, codes, {})

    def encode(
        self,
        images: Tensor,
        *,
        generator: torch.Generator | None = None,
        precision: EncodePrecision = "float32",
    ) -> Codes:
        """Encode images to codes.

        images: (B, C, H, W) floating point of any precision in [0, 1] with the size and channels of
        `self.image`, or label maps (B, H, W) int64, on the tokenizer's device. generator: only used
        if the quantizer's `test_rule` is `sample`. precision: "float32" computes in full float32 on
        any device, also inside an autocast; "tf32" (GPUs alone) and "bfloat16" are faster, and
        change some codes.

        Returns a tuple of (B, h, w) int64 maps, coarse to fine. Raises InputError for other images.
        """
        images = self._checked(images)
        with self._encoding(precision):
            return self._encode(images, generator)

    def encode_with_certainty(
        self, images: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Codes, dict[str, Tensor]]:
        """Encode images to codes as `encode` does, and return maps (B, h, w) of the certainty.

        The maps are `entropy` (nats), `top_logit`, `uncertainty`, ...: see `Quantizer.certainty`.
        With a quantizer per level, names include the level, as in `entropy_level0`.
        """
        images = self._checked(images)
        with self._encoding():
            return self._encode_with_certainty(images, generator)

    def encode_between(
        self,
        images: Tensor,
        others: Tensor,
        share: Float[Tensor, " B"],
        *,
        generator: torch.Generator | None = None,
    ) -> Codes:
        """Quantize an interpolation of the encoder outputs of each pair of images.

        At every level, the codes of (1 - share) z + share z' are returned, where z and z' are the
        encoder outputs. images, others: as for `encode`, of the same number. share: (B,) in [0, 1];
        0 returns the codes of `images`, 1 those of `others`.
        """
        images, others = self._checked(images), self._checked(others)
        if not isinstance(share, Tensor) or not len(images) == len(others) == share.numel():
            found = tuple(share.shape) if isinstance(share, Tensor) else share
            raise InputError(
                "expected as many images as others and a share for each, a tensor (B,); found "
                f"{len(images)}, {len(others)} and {found}"
            )
        share = share.to(images.device, torch.float32).view(-1, 1, 1, 1)
        with self._encoding():
            return self._encode_between(images, others, share, generator)

    def decode(self, codes: Codes) -> Images:
        """Decode codes, a tuple of integer (B, h, w) maps, coarse to fine, to images.

        Returns pixels (B, C, H, W) in [0, 1], or classes (B, H, W) int64 for label maps.

        Raises InputError if levels, shapes, dtype or range do not fit this tokenizer.
        """
        codes = check_codes(codes, self.num_codes, self.grids, values=not are_deferred())
        with eval_mode(self), torch.no_grad():
            return clamp_pixels(self._decode(codes))

    def reconstruct(self, images: Tensor, *, generator: torch.Generator | None = None) -> Images:
        codes = self.encode(images, generator=generator)
        with eval_mode(self), torch.no_grad():
            return self._decode(codes)

    def at_grids(self, grids: Sequence[tuple[int, int]]) -> "Tokenizer":
        """Return this tokenizer for codes of other grids; see `at_size`.

        grids: (h, w) of each level. Raises InputError for grids that no image size gives.
        """
        wanted = tuple((int(h), int(w)) for h, w in grids)
        if wanted == self.grids:
            return self
        if len(wanted) == len(self.grids):
            stride = self.stride
            sized = self.at_size(*(side * stride for side in wanted[0]))
            if sized.grids == wanted:
                return sized
        raise InputError(
            f"expected codes of grids {grids_shown(self.grids)}, or of the same proportion between "
            f"levels, found {grids_shown(wanted)}; they are codes of another tokenizer"
        )

    def _fit_grids(self) -> None:
        sides = self.config.image.height, self.config.image.width
        now = self.image.height, self.image.width
        own = self.grids
        self.grids = tuple((now[0] // (sides[0] // h), now[1] // (sides[1] // w)) for h, w in own)

    @abstractmethod
    def codebook(self, level: int) -> Float[Tensor, "K D"] | None:
        """Return the code vectors of a level, (K, D); None for residual levels."""

    @contextmanager
    def _encoding(self, precision: EncodePrecision = "float32") -> Iterator[None]:
        with (
            eval_mode(self),
            torch.no_grad(),
            encoding_precision(precision, device_of(self)),
        ):
            yield

    def _check_can_be_saved(self, folder: Path) -> None:
        super()._check_can_be_saved(folder)
        if self._ancestry is not None:
            coding = self.tensors_of("encoder", "quantizer")
            artifacts.check_ancestry(
                f"{folder}: not saved", self._ancestry, self._architecture(), coding
            )

    @abstractmethod
    def _forward(
        self, images: Images, temperature: float | Tensor, generator: torch.Generator | None
    ) -> Reconstruction:
        """Run the forward pass of a training step in which everything learns."""

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
    def _decoder_output(self, codes: Codes) -> Tensor:
        """Return the decoder's output, (B, C, H, W), which the likelihood converts to images."""

    def _decode(self, codes: Codes) -> Tensor:
        return self.likelihood.to_image(self._decoder_output(codes))

    def _usage(self) -> list[str]:
        image = self.image
        if image.mode == "labels":
            made_for, takes = f"label maps of {image.num_classes} classes,", "int64 (B, H, W)"
        else:
            made_for, takes = f"images of {image.channels} x", "float (B, C, H, W) in [0, 1]"
        ancestry = self._ancestry
        own_codes = [] if ancestry is None else ["", artifacts.ancestry_in_words(ancestry)]
        return [
            f"An image tokenizer ({', '.join(self.config.method)}) in the format of imagetok, for "
            f"{made_for} {image.height} x {image.width}, codes of "
            f"{', '.join(f'{h} x {w}' for h, w in self.grids)} with codebook size "
            f"{', '.join(map(str, self.num_codes))}.",
            *own_codes,
            "",
            "```python",
            "from imagetok import Tokenizer",
            f'tokenizer = Tokenizer.from_pretrained("{artifacts.HERE}")',
            f"codes = tokenizer.encode(images)  # {takes}",
            "```",
        ]
