"""Configs of training runs: settings of the loop, and the whole config of a tokenizer run."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    model_validator,
)

from imagetok.config import Section, Size, Steps
from imagetok.data.augmentation import AugmentConfig
from imagetok.data.config import DataConfig
from imagetok.data.resident import Resident
from imagetok.data.unreadable import parse_allowance
from imagetok.networks import VQGANConfig
from imagetok.networks.patchgan import smallest_side
from imagetok.quantizers.code_probabilities import penalty_names
from imagetok.tokenizers import TokenizerConfig
from imagetok.training.adversarial_losses import AdversarialLoss
from imagetok.training.schedules import Constant, Schedule, with_lengths

NO_SKIPS = "0"
Fraction = Annotated[float, Field(ge=0, lt=1)]
HalfPrecision = Literal["no", "bf16", "fp16"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]


def _allowance(value: object) -> object:
    """Check a number of images to skip; a whole number becomes text."""
    text = str(value) if type(value) is int else value
    if isinstance(text, str):
        parse_allowance(text, 1)
    return text


Allowance = Annotated[str, BeforeValidator(_allowance)]
"""A number of images that may be unreadable: a count, or a percentage such as "1%"."""


class OptimizerConfig(Section):
    """Adam with decoupled weight decay; 0 is plain Adam.

    Decay touches the matrices of linear and convolution layers only: no biases, norms, embeddings
    or codebooks.
    """

    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay of the averages of the gradient and of its square."""
    eps: PositiveFloat = 1e-8
    """Added to the square root of the second average."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay of the matrices, relative to the learning rate."""


class TrainConfig(Section):
    """Settings of the training loop, for tokenizers and priors alike."""

    steps: Steps
    """Optimizer steps of the run."""
    batch_size: Size
    """Images per optimizer step, over all processes and micro-batches."""
    accumulation: Size = 1
    """Micro-batches per optimizer step and process."""
    learning_rate: Schedule
    """The learning rate at each step."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Adam's own settings."""
    clip_norm: PositiveFloat | None = None
    """The norm that gradients are clipped to; null: none."""
    precision: Precision | None = None
    """Arithmetic of the forward and backward pass. `fp32`: full float32. `tf32`: float32 whose
    matrix products and convolutions have 10 bits of mantissa, on GPUs that can. `bf16`, `fp16`:
    half precision where it is safe; fp16 needs a GPU. null: what `mixed_precision` says."""
    mixed_precision: HalfPrecision = "no"
    """The former name of `precision`. `no` is float32 as torch computes it by default: on GPUs,
    matrix products in full float32 and convolutions in TF32."""
    deterministic: bool = False
    """Use only operations that give the same bits in every run on the same GPU, which can be
    slower; on a CPU they always do."""
    compile: bool = False
    """Let torch.compile fuse the forward and backward passes of networks and quantizers, for a GPU;
    it takes minutes to start. Held-out measures are computed without it."""
    cuda_graphs: bool = False
    """Record the GPU's work of an optimizer step once, then launch it as a whole, which saves the
    time between small operations; for one process, without fp16, `accumulation` and
    `gradient_checkpointing`. No GPU was at hand when it was written: it has never run on one."""
    ema_decay: Fraction | None = None
    """Decay of a moving average of the weights, which is evaluated and exported; null: none."""
    log_every: Steps = 50
    """Steps between two lines of metrics.jsonl."""
    evaluate_every: Steps = 1000
    """Steps between measurements on the held-out split (with pictures, for tokenizers)."""
    checkpoint_every: Steps = 1000
    """Steps between two checkpoints."""
    keep_checkpoints: tuple[Steps, ...] = ()
    """Steps whose checkpoints are never deleted, for pictures of how a model learns; others are
    deleted once two newer ones exist."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that read data; 0: the training process reads. They need
    shared memory, `/dev/shm`. Changes no value."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...] = ("tensorboard",)
    """Trackers that also receive the measures; each is a package to install."""
    added: ClassVar[tuple[str, ...]] = (
        *("precision", "deterministic", "compile", "cuda_graphs", "keep_checkpoints"),
    )

    @property
    def autocast(self) -> HalfPrecision:
        """The half precision that Accelerate casts to; `no` for none."""
        if self.precision is None:
            return self.mixed_precision
        return "no" if self.precision in ("fp32", "tf32") else self.precision

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        if self.mixed_precision not in ("no", self.autocast):
            raise ValueError(
                f"precision: expected {self.mixed_precision}, because mixed_precision, its former "
                f"name, says so, found {self.precision}; set train.mixed_precision=no beside it"
            )
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size: expected a multiple of accumulation ({self.accumulation}), found "
                f"{self.batch_size}"
            )
        if self.cuda_graphs:
            self._check_capturable()
        return self

    def _check_capturable(self) -> None:
        remedy = "or cuda_graphs=false"
        if self.accumulation > 1:
            raise ValueError(
                "accumulation: expected 1 beside cuda_graphs, because seeds change between "
                "micro-batches, but not within a recorded step; found "
                f"{self.accumulation}; set accumulation=1, {remedy}"
            )
        if self.autocast == "fp16":
            key = "mixed_precision" if self.precision is None else "precision"
            raise ValueError(
                f"{key}: expected bf16 or no half precision beside cuda_graphs, because fp16 skips "
                "steps by a value that is read from the GPU, which a recorded step cannot do; "
                f"found fp16; set {key}=bf16, {remedy}"
            )


def check_recomputation(gradient_checkpointing: bool, train: TrainConfig) -> None:
    """Raise ValueError if activations are to be computed again in a recorded step."""
    if gradient_checkpointing and train.cuda_graphs:
        raise ValueError(
            "gradient_checkpointing: expected false beside train.cuda_graphs, because it sets the "
            "state of the random generator, which a recorded step cannot do; found true; set "
            "gradient_checkpointing=false, or train.cuda_graphs=false"
        )


class PerceptualConfig(Section):
    """The distance of reconstructions to their images in the features of a network."""

    network: str = "lpips:vgg"
    """`lpips:vgg` or `lpips:alex`, each also with `=FILE` for local weights, or a feature network
    as `imagetok evaluate --features` names it, such as `torchvision:resnet50` or
    `cifar-resnet=FILE`."""
    of: Literal["features", "logits"] = "features"
    """What is compared by its mean squared error; LPIPS has its own form."""
    weight: Schedule
    """Factor of this loss."""


class AdversarialConfig(Section):
    """A discriminator (PatchGAN) that learns to tell reconstructions from images, and is fooled."""

    loss: AdversarialLoss = "hinge"
    """Form of both losses."""
    weight: Schedule
    """Factor of the model's loss, from step `start` on; 0.02 to 0.1 is usual."""
    adaptive: bool = False
    """Multiply the weight by the ratio of the gradients of reconstruction and adversarial loss at
    the decoder's last layer, as VQGAN does; it costs a part of a backward pass."""
    start: NonNegativeInt = 0
    """Step from which on the discriminator judges and learns; before, it costs nothing."""
    width: Annotated[int, Field(ge=1, le=1024)] = 64
    """Channels of the discriminator's first layer."""
    layers: Annotated[int, Field(ge=1, le=6)] = 3
    """Halvings of the resolution; images need 3 x 2^layers pixels along each side."""
    lecam: NonNegativeFloat = 0.001
    """Factor of the LeCAM regularisation of its logits."""
    lecam_decay: Fraction = 0.999
    """Decay of the average logits that LeCAM compares with."""
    learning_rate: Schedule
    """The discriminator's learning rate at each step."""
    optimizer: OptimizerConfig = OptimizerConfig(betas=(0.5, 0.9))
    """Its optimizer's settings."""
    init_from: str | None = None
    """`discriminator.safetensors` of a finished run, of the same `width` and `layers`, to start
    from; null: new weights. Its optimizer starts anew."""
    added: ClassVar[tuple[str, ...]] = ("init_from",)


class ObjectiveConfig(Section):
    """Reconstruction loss, perceptual loss and the sum of weight(step) * named loss.

    Reductions differ by family, and weights with them: the likelihood `mse` and the losses of the
    VQ, GS, dVAE and EdVAE quantizers are means, the other likelihoods and the losses of SQ-VAE sums
    over an image.
    """

    weights: dict[str, Schedule]
    """A schedule for the weight of each loss that the quantizer names."""
    temperature: Schedule = Constant(value=1.0)
    """Temperature of the relaxed codes in training."""
    pixel: Literal["l1", "l2"] | None = None
    """Reconstruction loss: mean absolute (`l1`) or squared (`l2`) error of pixels in [0, 1]; null:
    that of the tokenizer's likelihood, whose `mse` is `l2`."""
    perceptual: PerceptualConfig | None = None
    """A perceptual loss beside it; null: none."""
    adversarial: AdversarialConfig | None = None
    """A discriminator's judgement beside it; null: none."""
    added: ClassVar[tuple[str, ...]] = ("pixel", "perceptual", "adversarial")

    @property
    def schedules(self) -> dict[str, Schedule]:
        """The schedules by their keys, such as `temperature` and `weights.codebook`."""
        weights = {f"weights.{name}": schedule for name, schedule in self.weights.items()}
        beside = {"perceptual": self.perceptual, "adversarial": self.adversarial}
        parts = {f"{name}.weight": p.weight for name, p in beside.items() if p is not None}
        return {"temperature": self.temperature, **weights, **parts}


def fill_schedule_lengths(run: Section, steps: int) -> None:
    """Set the length of schedules without one to `steps`, while the run's config is validated."""
    filled = with_lengths(run, lambda key: steps)
    for name in type(run).model_fields:
        object.__setattr__(run, name, getattr(filled, name))  # because sections are frozen


def _weights_example(losses: Sequence[str]) -> str:
    """Return weights of 1 for losses, in YAML."""
    return f"{{{', '.join(f'{name}: 1.0' for name in sorted(losses))}}}"


class LearningRateFactors(Section):
    """Factors of the learning rate of each part of a tokenizer."""

    encoder: PositiveFloat = 1.0
    """Factor of the encoder, and in VQ-VAE-2 of what upsamples coarse codes for finer ones."""
    quantizer: PositiveFloat = 1.0
    """Factor of codebooks and other weights of quantizers; codebooks that follow averages of the
    encoder's outputs have no learning rate."""
    decoder: PositiveFloat = 1.0
    """Factor of the decoder, and of the likelihood's own scale."""


class TokenizerRun(Section):
    """A config file of `kind: tokenizer`."""

    kind: Literal["tokenizer"] = "tokenizer"
    seed: NonNegativeInt = 0
    """The seed from which every random draw of the run is derived."""
    data: DataConfig
    """The source of the images."""
    max_skip: Allowance = NO_SKIPS
    """Unreadable images of each split to allow, a count or a percentage such as `1%`; others take
    their place in training, and evaluations leave them out."""
    augment: AugmentConfig | None = None
    """Random changes of the training images; null: none."""
    resident: Resident = "auto"
    """Where decoded training images are kept. `auto`: on a GPU, if they have one size and take at
    most 4 GiB and a quarter of its memory. `always`: there or, without a GPU, in memory. `never`:
    nowhere; they are read as they are needed."""
    gradient_checkpointing: bool = False
    """Save memory: compute activations inside blocks again in the backward pass. For the network
    `vqgan`."""
    tokenizer: TokenizerConfig
    """The tokenizer to train."""
    objective: ObjectiveConfig
    """The loss to minimise."""
    train: TrainConfig
    """The training loop and its optimizer."""
    trained: Literal["all", "decoder"] = "all"
    """What learns. `decoder`: only the decoder, from a tokenizer that `--init-from` names; encoder
    and quantizer stay as they are, so code datasets and priors of that tokenizer stay valid. Losses
    of the quantizer and `objective.temperature` then have no effect."""
    learning_rate_factors: LearningRateFactors = LearningRateFactors()
    """Factors of `train.learning_rate`, such as a small one of the encoder for fine-tuning."""
    added: ClassVar[tuple[str, ...]] = (
        *("max_skip", "augment", "resident", "gradient_checkpointing"),
        *("trained", "learning_rate_factors"),
    )

    @model_validator(mode="after")
    def _check(self) -> "TokenizerRun":
        fill_schedule_lengths(self, self.train.steps)
        network = self.tokenizer.network
        check_recomputation(self.gradient_checkpointing, self.train)
        if self.gradient_checkpointing and not isinstance(network, VQGANConfig):
            raise ValueError(
                f"gradient_checkpointing: expected false with network {network.kind!r}, which has "
                "no blocks to compute again, found true; the network 'vqgan' has"
            )
        self._check_trained()
        if isinstance(network, VQGANConfig) and network.encode_only:
            raise ValueError(
                "tokenizer.network.encode_only: expected false, because a tokenizer that only "
                "encodes cannot be trained: it has no decoder; found true; set it to false for a "
                "tokenizer with a decoder"
            )
        if self.augment is not None:
            self.augment.check_images(self.tokenizer.image)
        likelihood = self.tokenizer.likelihood
        if self.objective.pixel is not None and likelihood.kind != "mse":
            raise ValueError(
                f"objective.pixel: expected null with likelihood {likelihood.kind!r}, which has "
                f"its own loss, found {self.objective.pixel}; use likelihood 'mse'"
            )
        if self.objective.perceptual is not None and self.train.deterministic:
            _check_deterministic(self.objective.perceptual)
        if self.objective.adversarial is not None:
            _check_adversarial(self.objective.adversarial, self)
        losses, method = self.tokenizer.losses, ", ".join(map(repr, self.tokenizer.method))
        if set(self.objective.weights) != set(losses):
            raise ValueError(
                f"objective.weights: expected the losses of {method}, {sorted(losses)}, found "
                f"{sorted(self.objective.weights)}; {self._penalty_advice()}set the weight of "
                f"each, as in --set 'objective.weights={_weights_example(losses)}'"
            )
        if self.train.accumulation > 1 and not likelihood.is_additive:
            raise ValueError(
                f"train.accumulation: expected 1, because likelihood {likelihood.kind!r} takes the "
                "logarithm of the whole batch's error, which is no sum over micro-batches; found "
                f"{self.train.accumulation}; set it to 1, or use likelihood 'gaussian'"
            )
        return self

    def _penalty_advice(self) -> str:
        """Advise the key that an entropy penalty lacks whose losses have weights."""
        has_key = any(hasattr(level, "entropy_temperature") for level in self.tokenizer.levels)
        missing = {*self.objective.weights} - {*self.tokenizer.losses}
        if not has_key or not missing & {*penalty_names(1.0)}:
            return ""
        return (
            "for an entropy penalty, which has the losses sample_entropy and diversity, set "
            "tokenizer.quantizer.entropy_temperature=0.01, or else "
        )

    def _check_trained(self) -> None:
        factors = self.learning_rate_factors
        if self.trained == "decoder" and self.tokenizer.latent is not None:
            raise ValueError(
                "trained: expected all with a VAE, which has no codes that could stay valid, found "
                "decoder; set trained=all"
            )
        if self.trained == "decoder" and factors != LearningRateFactors():
            raise ValueError(
                "learning_rate_factors: expected none with trained=decoder, of which "
                "train.learning_rate is that of the decoder; omit the section"
            )
        if self.tokenizer.latent is not None and factors.quantizer != 1:
            raise ValueError(
                "learning_rate_factors.quantizer: expected 1 with a VAE, which has no quantizer, "
                f"found {factors.quantizer}; omit it"
            )


def _check_deterministic(perceptual: PerceptualConfig) -> None:
    if perceptual.network.startswith("torchvision:"):
        raise ValueError(
            "train.deterministic: expected false with objective.perceptual.network "
            f"{perceptual.network!r}, which resizes images by an operation whose gradient has no "
            "deterministic form on a GPU, found true; use lpips:vgg or cifar-resnet=FILE"
        )


def _check_adversarial(config: AdversarialConfig, run: TokenizerRun) -> None:
    """Raise ValueError for a run that cannot have an adversary."""
    key, image, train = "objective.adversarial", run.tokenizer.image, run.train
    if image.mode == "labels":
        raise ValueError(f"{key}: expected null with label maps, which it cannot judge")
    least = smallest_side(config.layers)
    if min(image.height, image.width) < least:
        raise ValueError(
            f"{key}.layers: {config.layers} need images of at least {least} x {least} pixels, "
            f"found {image.height} x {image.width}; use fewer layers"
        )
    if train.autocast == "fp16":
        raise ValueError(
            f"{key}: expected null with fp16, whose scaler skips steps of one of two optimizers; "
            "use train.precision=bf16"
        )
    if train.cuda_graphs:
        raise ValueError(
            f"{key}: expected null with train.cuda_graphs, because its part differs between "
            "steps, which a recorded step cannot; set train.cuda_graphs=false"
        )
