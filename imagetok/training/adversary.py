"""The adversary of a training: a discriminator that learns to tell reconstructions from images.

Its part of an optimizer step has two halves. While the model learns, the discriminator is fixed,
and the gradient of its judgement reaches the reconstructions. Then the discriminator learns, from
the same images and their detached reconstructions in one forward pass.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from imagetok.durable import write_bytes
from imagetok.errors import InputError
from imagetok.io.regular_files import check_safetensors
from imagetok.networks.patchgan import PatchGAN
from imagetok.tokenizers import Autoencoder
from imagetok.training.adversarial_losses import LeCAM, discriminator_loss, generator_loss
from imagetok.training.checkpoint_record import DISCRIMINATOR
from imagetok.training.config import AdversarialConfig
from imagetok.training.optimizer import build_optimizer, set_learning_rate, to_step
from imagetok.training.schedules import Value
from imagetok.training.step_output import StepOutput

logger = logging.getLogger("imagetok")

_LEAST, _MOST = 1e-4, 1e4  # of the adaptive weight's divisor and of its ratio, as in VQGAN's code
_PATIENCE, _DECAY = 20, 0.9
"""Logged steps before a balance is judged, and the decay of the average accuracy."""
_WON, _LOST = 0.97, 0.53


class Discriminator(nn.Module):
    """PatchGAN, and the averages of LeCAM, which are stored with it."""

    def __init__(self, config: AdversarialConfig, channels: int):
        super().__init__()
        self.network = PatchGAN(channels, config.width, config.layers)
        self.lecam = LeCAM(config.lecam_decay)
        self.started_from = ""
        """sha256 of the file that the weights were read from; "" for new weights."""

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 h w"]:
        """Return the logits of patches, high for images; pixels in [0, 1]."""
        return self.network(2 * images - 1)

    def start_from(self, path: Path) -> None:
        """Load the weights and averages that a finished run left in discriminator.safetensors.

        Raises InputError for a file that cannot be read or is of another discriminator.
        """
        key = "objective.adversarial.init_from"
        try:
            check_safetensors(path)
            content = path.read_bytes()
            tensors = load(content)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"{key}: {path}: cannot be read ({reason}); expected {DISCRIMINATOR} of a finished "
                "run with objective.adversarial"
            ) from None
        wanted = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if odd := sorted(k for k in {*wanted, *found} if wanted.get(k) != found.get(k)):
            raise InputError(
                f"{key}: {path}: {odd[0]}: expected {wanted.get(odd[0])}, found "
                f"{found.get(odd[0])}; it is of a discriminator of other width, layers or image "
                "channels: set those of its run"
            )
        self.load_state_dict(tensors, strict=True)
        self.started_from = hashlib.sha256(content).hexdigest()


class Adversary:
    """A discriminator on the accelerator's device, and its optimizer.

    With several processes, gradients are averaged over them as the model's are; a checkpoint of the
    accelerator has discriminator and optimizer.
    """

    def __init__(
        self,
        config: AdversarialConfig,
        discriminator: Discriminator,
        accelerator: Accelerator,
        last: Tensor,
    ):
        """last: the weight of the decoder's last layer, at which gradients are compared."""
        self.config = config
        self.balance = Balance()
        self._last = last
        self._step, self._is_logged = 0, False
        self._accelerator = accelerator
        self._model, optimizer = accelerator.prepare(
            discriminator, build_optimizer(discriminator, config.optimizer)
        )
        self._bare: Discriminator = accelerator.unwrap_model(self._model)
        self._optimizer = to_step(optimizer)
        self._model.train()

    def begin(self, step: int, *, is_logged: bool) -> None:
        """Begin a step. is_logged: whether its measures are logged, gradient norms among them."""
        self._step, self._is_logged = step, is_logged

    @property
    def is_active(self) -> bool:
        """Whether the discriminator judges and learns at this step."""
        return self._step >= self.config.start

    def opposed(self, output: StepOutput, weight: Value) -> StepOutput:
        """Return the output of a micro-batch with the weighted judgement added to its loss.

        Measures are added: `adversarial`, the judgement; at logged steps, or with an adaptive
        weight, `gradient_reconstruction` and `gradient_adversarial`, norms of the gradients at the
        decoder's last layer before weighting, and `adversarial_weight`.
        """
        assert output.judged is not None
        judged, metrics = output.judged, dict(output.metrics)
        judgement = self._judgement(judged.x_hat)
        metrics["adversarial"] = judgement
        if self.config.adaptive or self._is_logged:
            norms = [gradient_norm(loss, self._last) for loss in (judged.loss, judgement)]
            if self.config.adaptive:
                weight = weight * adaptive_factor(*norms)
            metrics["gradient_reconstruction"], metrics["gradient_adversarial"] = norms
            metrics["adversarial_weight"] = weight * torch.ones_like(norms[0])
        return output._replace(loss=output.loss + weight * judgement, metrics=metrics)

    def _judgement(self, x_hat: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
        """Return the model's loss; its gradient reaches the reconstructions alone."""
        fixed = {name: p.detach() for name, p in self._bare.named_parameters()}
        logits = torch.func.functional_call(self._bare, fixed, (x_hat,))
        return generator_loss(self.config.loss, logits.float())

    def learn(self, outputs: Sequence[StepOutput]) -> list[StepOutput]:
        """Take the discriminator's optimizer step over the micro-batches, which are detached.

        Returns their outputs with measures added: `discriminator_loss`, `discriminator_accuracy`
        (share of patches that are judged right), and the mean logits `real_logit`, `fake_logit`.
        """
        accelerator = self._accelerator
        set_learning_rate(self._optimizer, self.config.learning_rate.at(self._step))
        learnt: list[StepOutput] = []
        for output in outputs:
            assert output.judged is not None
            x_hat, is_last = output.judged.x_hat, len(learnt) == len(outputs) - 1
            with nullcontext() if is_last else accelerator.no_sync(self._model):
                both = torch.cat([output.judged.images.to(x_hat.dtype), x_hat])
                logits = self._model(both).float()
                real, fake = logits.chunk(2)
                loss = discriminator_loss(self.config.loss, real, fake)
                total = loss + self.config.lecam * self._bare.lecam(real, fake)
                accelerator.backward(total / len(outputs))
            measures = _measures(loss.detach(), real.detach(), fake.detach())
            learnt.append(output._replace(metrics=output.metrics | measures, judged=None))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return learnt

    def note(self, metrics: Mapping[str, Tensor]) -> None:
        """Take the mean logits of a step, over micro-batches and processes, into the averages."""
        self._bare.lecam.update(metrics["real_logit"], metrics["fake_logit"])

    def state(self) -> dict[str, Tensor]:
        """Return the weights and averages of the discriminator."""
        return self._bare.state_dict()

    def save(self, run: Path) -> str:
        """Write discriminator.safetensors beside the artifact in a run folder; return its hash."""
        content = save({name: value.contiguous() for name, value in self.state().items()})
        write_bytes(run / DISCRIMINATOR, content)
        return hashlib.sha256(content).hexdigest()


def _measures(loss: Tensor, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    right = (real > 0).float().mean() + (fake < 0).float().mean()
    return {
        "discriminator_loss": loss,
        "discriminator_accuracy": right / 2,
        "real_logit": real.mean(),
        "fake_logit": fake.mean(),
    }


def last_weight(model: nn.Module) -> Tensor:
    """Return the weight of the last layer of an autoencoder's decoder."""
    assert isinstance(model, Autoencoder)
    *_, last = (p for p in model.networks()[-1].parameters() if p.ndim > 1)
    return last


def gradient_norm(loss: Float[Tensor, ""], weight: Tensor) -> Float[Tensor, ""]:
    """Return the norm of the gradient of a loss, whose graph is kept, by one weight."""
    (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
    return gradient.float().norm()


def adaptive_factor(
    reconstruction: Float[Tensor, ""], adversarial: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Return the factor with which both losses have the same gradient at the last layer.

    reconstruction, adversarial: norms of the gradients by the weight of the decoder's last layer
    (Esser et al. 2021, eq. 7, with the limits of its code).
    """
    return (reconstruction / (adversarial + _LEAST)).clamp(0, _MOST)


class Balance:
    """Says in the log when the discriminator has won or lost, once each time that it changes."""

    def __init__(self) -> None:
        self._accuracy, self._seen, self._state = 0.5, 0, ""

    def note(self, values: Mapping[str, float]) -> None:
        """Take the measures of a logged step into account; those before its start have none."""
        if "discriminator_accuracy" not in values:
            return
        self._seen += 1
        self._accuracy += (1 - _DECAY) * (values["discriminator_accuracy"] - self._accuracy)
        if self._seen < _PATIENCE:
            return
        state = "won" if self._accuracy > _WON else "lost" if self._accuracy < _LOST else ""
        if state and state != self._state:
            logger.warning("%s", _WORDS[state] % (100 * self._accuracy))
        self._state = state


_WORDS = {
    "won": "the discriminator has won: it judges %.0f %% of the patches right, so the "
    "reconstructions learn little from it; lower objective.adversarial.learning_rate, or raise "
    "its lecam",
    "lost": "the discriminator has lost: it judges %.0f %% of the patches right, no better than "
    "chance; raise objective.adversarial.learning_rate or width, or lower its weight",
}
