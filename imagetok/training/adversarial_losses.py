"""Losses of a discriminator and of the model that it trains, and the LeCAM regularisation."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

AdversarialLoss = Literal["hinge", "non-saturating"]


def discriminator_loss(
    kind: AdversarialLoss, real: Float[Tensor, "..."], fake: Float[Tensor, "..."]
) -> Float[Tensor, ""]:
    """Return the loss of a discriminator from its logits of images and of reconstructions.

    `hinge` (Lim and Ye 2017): mean of relu(1 - real) and relu(1 + fake), halved as in
    taming-transformers. `non-saturating` (Goodfellow et al. 2014): half the cross-entropies.
    """
    if kind == "hinge":
        return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean())
    return 0.5 * (functional.softplus(-real).mean() + functional.softplus(fake).mean())


def generator_loss(kind: AdversarialLoss, fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Return the loss of the model from the logits of its reconstructions.

    `hinge`: the negative mean. `non-saturating`: -ln sigmoid(fake), whose gradient does not vanish
    where the discriminator is sure.
    """
    return -fake.mean() if kind == "hinge" else functional.softplus(-fake).mean()


class LeCAM(nn.Module):
    """The regularisation of LeCAM (Tseng et al. 2021, eq. 5): it limits a discriminator's logits.

    Logits of images may not rise above the moving average of those of reconstructions without
    cost, nor the latter fall below the average of the former: mean of
    relu(real - average fake)^2 + mean of relu(average real - fake)^2. The averages are state.
    """

    averages: Tensor

    def __init__(self, decay: float):
        super().__init__()
        self.decay = decay
        self.register_buffer("averages", torch.zeros(2))

    def forward(self, real: Float[Tensor, "..."], fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the regularisation with the averages as they are."""
        of_real, of_fake = self.averages
        return (
            functional.relu(real - of_fake).square().mean()
            + functional.relu(of_real - fake).square().mean()
        )

    @torch.no_grad()
    def update(self, real: Float[Tensor, ""], fake: Float[Tensor, ""]) -> None:
        """Take the mean logits of a step into the averages."""
        self.averages.lerp_(torch.stack([real, fake]), 1 - self.decay)
