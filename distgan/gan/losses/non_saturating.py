"""Binary cross-entropy with the generator loss that does not saturate."""

from torch.nn.functional import softplus

from distgan.gan.losses.base import Loss

# Goodfellow et al., 2014, algorithm 1, with the generator loss of its section 3: maximise log D(G(z)).
LOSS = Loss(
    d=lambda real, fake: softplus(-real).mean() + softplus(fake).mean(), g=lambda real, fake: softplus(-fake).mean()
)
