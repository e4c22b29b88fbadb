"""Binary cross-entropy with the original generator loss."""

from torch.nn.functional import softplus

from distgan.gan.losses.base import Loss

# Goodfellow et al., 2014, eq. 1: minimise log(1 - D(G(z))). One often sees a generator loss with log D(x) of real data
# in it; that is a misprint: the term has no gradient in G, and only G(z) says anything to the generator.
LOSS = Loss(
    d=lambda real, fake: softplus(-real).mean() + softplus(fake).mean(), g=lambda real, fake: -softplus(fake).mean()
)
