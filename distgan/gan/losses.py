"""The adversarial losses, each stated once, on logits: D(x) before any sigmoid.

Every loss is a mean over samples. `real` are the logits of real images, `fake` those of generated ones, both (N,). With
sigma the logistic function and softplus(t) = log(1 + e^t): -log sigma(t) = softplus(-t), -log(1 - sigma(t)) =
softplus(t), forms that neither overflow nor lose their gradient where the sigmoid is 0 or 1 in floating point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import relu, softplus


class Loss(NamedTuple):
    """What each player minimises, as functions (real (N,), fake (N,)) -> scalar."""

    d: Callable[[Tensor, Tensor], Tensor]
    g: Callable[[Tensor, Tensor], Tensor]


LOSSES: dict[str, Loss] = {
    # Goodfellow et al., 2014, algorithm 1, with the generator loss of its section 3: maximise log D(G(z)).
    "non-saturating": Loss(
        d=lambda real, fake: softplus(-real).mean() + softplus(fake).mean(), g=lambda real, fake: softplus(-fake).mean()
    ),
    # Goodfellow et al., 2014, eq. 1: minimise log(1 - D(G(z))). One often sees a generator loss with log D(x) of real
    # data in it; that is a misprint: the term has no gradient in G, and only G(z) says anything to the generator.
    "minimax": Loss(
        d=lambda real, fake: softplus(-real).mean() + softplus(fake).mean(), g=lambda real, fake: -softplus(fake).mean()
    ),
    # Mao et al., 2017, eq. 9: real images are pulled to 1, generated ones to 0; the generator pulls its own to 1.
    "least-squares": Loss(
        d=lambda real, fake: 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean(),
        g=lambda real, fake: 0.5 * (fake - 1).square().mean(),
    ),
    # Lim and Ye, 2017; Miyato et al., 2018, eq. 16 and 17.
    "hinge": Loss(
        d=lambda real, fake: relu(1 - real).mean() + relu(1 + fake).mean(), g=lambda real, fake: -fake.mean()
    ),
    # Arjovsky et al., 2017, eq. 2; needs a penalty or spectral normalisation to be a Wasserstein distance at all.
    "wasserstein": Loss(d=lambda real, fake: fake.mean() - real.mean(), g=lambda real, fake: -fake.mean()),
    # Jolicoeur-Martineau, 2019 (RpGAN), with f = softplus, as in Huang et al., 2024 (R3GAN), eq. 2: the i-th real image
    # is compared with the i-th generated one.
    "relativistic": Loss(
        d=lambda real, fake: softplus(fake - real).mean(), g=lambda real, fake: softplus(real - fake).mean()
    ),
}
"""Name -> loss; the names are those of `loss.name`."""
