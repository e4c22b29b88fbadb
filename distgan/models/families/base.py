"""What a family of networks is."""

from __future__ import annotations

from dataclasses import dataclass

POWERS = (16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Family:
    """A pair of networks, and what it can make. Needs no torch, so that a mistake is told before anything heavy is
    imported.
    """

    generator: str
    """Its class as package.module:Class, which may lie in the family's own file."""
    discriminator: str
    resolutions: tuple[int, ...] | None = None
    """Sides of the square images, in pixels, that it can make; None = any."""
    oblong: bool = False
    """Whether it takes `resolution` = (height, width) too, see models/sides.py: up to the largest of `resolutions`."""
    d_norms: tuple[str, ...] = ("batch", "spectral", "none")
    """Values of model.d_norm that it takes."""
    upsamplings: tuple[str, ...] = ()
    """Values of model.g_upsampling that its generator has a choice of; () = it has its own."""
