"""Fully connected networks, for images of any side."""

from distgan.models.families.base import Family

FAMILY = Family(
    generator="distgan.models.mlp:MLPGenerator", discriminator="distgan.models.mlp:MLPDiscriminator", oblong=True
)
