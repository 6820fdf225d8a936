"""The configs of a prior: its architecture, and the config of a run that trains it."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from imagetok.config import PlaceOrUrl, Section, Size, Steps
from imagetok.data.resident import Resident
from imagetok.plugins.registry import OwnPart, OwnSection, names_in
from imagetok.plugins.sections import OrRegistered
from imagetok.suggestions import counted
from imagetok.training.config import TrainConfig, check_recomputation, fill_schedule_lengths

Fraction = Annotated[float, Field(ge=0, lt=1)]
MAX_LENGTH = 1 << 20
MAX_TOKENS = 1 << 32
MAX_UNITS = 1024


class PriorSection(OwnSection):
    """Base class of the config section `model` of your own prior.

    Define `kind: Literal["my-name"] = "my-name"` and its keys. Such a prior models codes of any
    number of levels, but cannot be one level of a `hierarchy`.
    """

    if TYPE_CHECKING:
        kind: Any  # a Literal of the section

    @classmethod
    def own_part(cls) -> OwnPart:
        return OwnPart("prior", "kind", (), names_in(ModelConfig, "kind"))


class GPTConfig(Section):
    """A GPT (transformers) over [class, code, code, ...]."""

    kind: Literal["gpt"] = "gpt"
    layers: Annotated[int, Field(ge=1, le=1024)] = 8
    """Number of transformer blocks."""
    heads: Size = 8
    """Number of attention heads; divides the width."""
    width: Annotated[int, Field(ge=1, le=65536)] = 256
    """Number of channels."""
    positions: Literal["learned", "rotary"] = "learned"
    """Learned vectors added to the tokens, or rotary positions (Su et al. 2021)."""
    dropout: Fraction = 0.1
    """Dropout probability of the inner activations."""

    @model_validator(mode="after")
    def _check(self) -> "GPTConfig":
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        if self.positions == "rotary" and self.width // self.heads % 2:
            raise ValueError(
                f"rotary positions need pairs: width / heads ({self.width // self.heads}) must be "
                "even"
            )
        return self


class PixelSNAILConfig(Section):
    """PixelSNAIL (Chen et al. 2018); the paper's has 256 channels and 12 blocks of 4 units."""

    kind: Literal["pixelsnail"] = "pixelsnail"
    width: Annotated[int, Field(ge=2, le=65536, multiple_of=2)] = 128
    """Number of channels."""
    blocks: Annotated[int, Field(ge=1, le=1024)] = 4
    """Number of blocks, each of residual units and, optionally, attention."""
    units: Annotated[int, Field(ge=1, le=1024)] = 4
    """Number of gated residual units in each block."""
    kernel_size: Annotated[int, Field(ge=3, le=31)] = 5
    """Kernel size of the causal convolutions."""
    attention: bool = True
    """Whether blocks end with causal attention."""
    heads: Size = 8
    """Number of attention heads; divides half the width."""
    dropout: Fraction = 0.1
    """Dropout probability of the inner activations."""

    @model_validator(mode="after")
    def _check(self) -> "PixelSNAILConfig":
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd (found {self.kernel_size})")
        if self.blocks * self.units > MAX_UNITS:
            raise ValueError(f"blocks x units ({self.blocks * self.units}) is above {MAX_UNITS}")
        if self.width // 2 % self.heads:
            raise ValueError(
                f"half the width ({self.width // 2}) must be a multiple of heads ({self.heads})"
            )
        return self


class PixelCNNConfig(Section):
    """A gated PixelCNN; the defaults are those of the priors of VQ-VAE and SQ-VAE."""

    kind: Literal["pixelcnn"] = "pixelcnn"
    width: Annotated[int, Field(ge=1, le=65536)] = 64
    """Number of channels."""
    layers: Annotated[int, Field(ge=1, le=1024)] = 15
    """Number of gated layers."""
    head: Annotated[int, Field(ge=1, le=65536)] = 512
    """Channels of the layer before the logits."""
    dropout: Fraction = 0.0
    """Dropout probability of each layer's output; the papers use none."""


class ContextConfig(Section):
    """Context network of the bottom prior: gated 3 x 3 units on the whole map of top codes."""

    width: Annotated[int, Field(ge=1, le=65536)] = 128
    """Number of channels."""
    units: Annotated[int, Field(ge=0, le=1024)] = 3
    """Number of units; the public VQ-VAE-2 priors have 3, Razavi et al. 2019 use 20."""
    dropout: Fraction = 0.1
    """Dropout probability of the inner activations."""


FlatConfig = Annotated[GPTConfig | PixelSNAILConfig | PixelCNNConfig, Field(discriminator="kind")]


class HierarchyConfig(Section):
    """A prior of two levels: p(top | class) p(bottom | top, class) (Razavi et al. 2019)."""

    kind: Literal["hierarchy"] = "hierarchy"
    top: FlatConfig
    """The prior of the coarse codes."""
    bottom: FlatConfig
    """The prior of the fine codes, conditioned on the coarse ones."""
    context: ContextConfig = ContextConfig()
    """The network through which the bottom prior reads the coarse codes."""

    @property
    def levels(self) -> tuple[FlatConfig, FlatConfig]:
        """The model of each level, coarse to fine."""
        return self.top, self.bottom


ModelConfig = Annotated[
    GPTConfig | PixelSNAILConfig | PixelCNNConfig | HierarchyConfig | PriorSection,
    OrRegistered(PriorSection),
]
"""The section of any prior's network: a kind of imagetok's, or one that is registered."""


class PriorConfig(Section):
    """The architecture of a prior: everything except the weights."""

    tokenizer_fingerprint: str
    """Fingerprint of the tokenizer whose codes are modelled; see `Tokenizer.codes_fingerprint`."""
    num_codes: tuple[PositiveInt, ...]
    """Codebook size K of each level, coarse to fine."""
    grids: tuple[tuple[PositiveInt, PositiveInt], ...]
    """Grid size (h, w) of each level."""
    num_classes: NonNegativeInt
    """Number of classes; 0: unconditional."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, in the order of their numbers."""
    label_dropout: Fraction = 0.1
    """Probability that a label was hidden in training; with 0, sampling needs a class."""
    model: ModelConfig
    """The network, or one for each level."""

    @model_validator(mode="after")
    def _check(self) -> "PriorConfig":
        # A config can come from anywhere, and even on the meta device a large model takes time.
        if self.length > MAX_LENGTH:
            raise ValueError(f"expected at most {MAX_LENGTH} codes per image, found {self.length}")
        if sum(self.num_codes) + self.num_classes > MAX_TOKENS:
            raise ValueError(f"expected at most {MAX_TOKENS} codes and classes together")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"class_names: expected {self.num_classes}, one per class, or none, found "
                f"{len(self.class_names)}"
            )
        kind, levels = self.model.kind, len(self.grids)
        if len(self.num_codes) != levels:
            raise ValueError(
                f"{counted(len(self.num_codes), 'level')} of codes, but {counted(levels, 'grid')}"
            )
        if kind == "hierarchy" and levels != 2:
            raise ValueError(f"hierarchy: expected codes of two levels, found {levels}")
        if kind in ("pixelsnail", "pixelcnn") and levels != 1:
            raise ValueError(
                f"{kind}: expected codes of one level, found {levels}; use gpt, which accepts any "
                "number of levels, or hierarchy for two"
            )
        return self

    @property
    def named_classes(self) -> tuple[str, ...]:
        """Names of the classes; the numbers themselves if they have no names."""
        return self.class_names or tuple(map(str, range(self.num_classes)))

    def of_level(self, level: int, model: FlatConfig) -> "PriorConfig":
        """Return the architecture for one of its levels."""
        alone = {"num_codes": (self.num_codes[level],), "grids": (self.grids[level],)}
        return self.model_copy(update={**alone, "model": model})

    @property
    def length(self) -> int:
        """Number of codes per image, over all levels."""
        return sum(h * w for h, w in self.grids)


class CodesConfig(Section):
    """The code datasets that a prior is trained and evaluated on."""

    source: PlaceOrUrl
    """Folder of the training codes."""
    test: PlaceOrUrl | None = None
    """Folder of the held-out codes; without one, a part of the source is held out."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """The part of the source that is held out where there is no `test`."""
    views: Literal["one", "all"] = "one"
    """Of codes of several views of each image, an epoch reads `one` of each image, drawn anew each
    time, or `all`; held-out images are measured in view 0."""
    added: ClassVar[tuple[str, ...]] = ("views",)


class PriorRun(Section):
    """A config file of `kind: prior`."""

    kind: Literal["prior"] = "prior"
    seed: NonNegativeInt = 0
    """The seed from which every random draw of the run is derived."""
    data: CodesConfig
    """The code datasets."""
    tokenizer: str
    """Folder or Hub id of the tokenizer of the codes; embedded in the finished prior."""
    conditional: bool = True
    """Learn p(codes | label) where the codes have labels."""
    label_dropout: Fraction = 0.1
    """Probability that a label is hidden in training, for unconditional sampling and guidance."""
    patience: Steps | None = None
    """Training ends after this many evaluations in a row without lower held-out bits per code."""
    export: Literal["best", "last"] = "last"
    """Export the weights with the lowest held-out bits per code, or those of the last step; the
    others stay in the newest checkpoint."""
    gradient_checkpointing: bool = False
    """Save memory: compute activations inside blocks again in the backward pass."""
    compile: bool = False
    """The former name of `train.compile`; either is enough."""
    resident: Resident = "auto"
    """Where training codes are kept, as for images. `auto`: on a GPU, if they take at most 4 GiB
    and a quarter of its memory. `always`: there or, without a GPU, in memory. `never`: nowhere;
    they are read as they are needed. Of several views of which one is drawn for each epoch, codes
    are always read as they are needed."""
    model: ModelConfig
    """The network, or one for each of two levels."""
    train: TrainConfig
    """The training loop and its optimizer."""
    added: ClassVar[tuple[str, ...]] = ("resident",)

    @model_validator(mode="after")
    def _check(self) -> "PriorRun":
        fill_schedule_lengths(self, self.train.steps)
        models = self.model.levels if isinstance(self.model, HierarchyConfig) else (self.model,)
        has_snail = any(model.kind == "pixelsnail" for model in models)
        if has_snail and self.train.optimizer.weight_decay > 0:
            raise ValueError(
                "train.optimizer.weight_decay: the weights of pixelsnail are normalised, so decay "
                "has no effect; set it to 0"
            )
        check_recomputation(self.gradient_checkpointing, self.train)
        return self
