"""The difference of means."""

from distgan.gan.losses.base import Loss

# Arjovsky et al., 2017, eq. 2; needs a penalty or spectral normalisation to be a Wasserstein distance at all.
LOSS = Loss(d=lambda real, fake: fake.mean() - real.mean(), g=lambda real, fake: -fake.mean())
