"""Styles: a mapping network and modulated convolutions."""

from distgan.models.families.base import POWERS, Family

FAMILY = Family(
    generator="distgan.models.style:StyleGenerator",
    discriminator="distgan.models.style:StyleDiscriminator",
    resolutions=(16, 28, *POWERS[1:]),
    d_norms=("none",),
    oblong=True,
)
