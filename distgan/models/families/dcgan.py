"""Strided and transposed convolutions."""

from distgan.models.families.base import Family

FAMILY = Family(
    generator="distgan.models.dcgan:DCGANGenerator",
    discriminator="distgan.models.dcgan:DCGANDiscriminator",
    resolutions=(16, 28, 32, 64),  # from 128 on it collapses: G falls behind D within minutes
    upsamplings=("transposed", "bilinear"),
    oblong=True,
)
