"""Least squares in place of cross-entropy."""

from distgan.gan.losses.base import Loss

# Mao et al., 2017, eq. 9: real samples are pulled to 1, generated ones to 0; the generator pulls its own to 1.
LOSS = Loss(
    d=lambda real, fake: 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean(),
    g=lambda real, fake: 0.5 * (fake - 1).square().mean(),
)
