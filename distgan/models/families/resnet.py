"""Residual networks with pre-activation."""

from distgan.models.families.base import POWERS, Family

FAMILY = Family(
    generator="distgan.models.resnet:ResNetGenerator",
    discriminator="distgan.models.resnet:ResNetDiscriminator",
    resolutions=POWERS,
    oblong=True,
)
