"""The relativistic pairing loss (RpGAN)."""

from torch.nn.functional import softplus

from distgan.gan.losses.base import Loss

# Jolicoeur-Martineau, 2019 (RpGAN), with f = softplus, as in Huang et al., 2024 (R3GAN), eq. 2: the i-th real sample is
# compared with the i-th generated one.
LOSS = Loss(
    d=lambda real, fake: softplus(fake - real).mean(), g=lambda real, fake: softplus(real - fake).mean(), pairs=True
)
