"""Grouped residual networks without any normalisation."""

from distgan.models.families.base import POWERS, Family

FAMILY = Family(
    generator="distgan.models.r3gan:R3GANGenerator",
    discriminator="distgan.models.r3gan:R3GANDiscriminator",
    resolutions=POWERS,
    oblong=True,
    d_norms=("batch", "none"),
)
