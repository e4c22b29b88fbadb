"""Fully connected networks: the first GANs (Goodfellow et al., 2014), with batch normalisation where it is asked for.

Any sides. The generator's hidden layers have g_width, 2 g_width and 4 g_width units, the discriminator's 2 d_width
and d_width: with g_width = d_width = 128 that is z-128-256-512-image and image-256-128-1.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from distgan.models.layers import Discriminator, Head, LatentInput, Norm, he_init, linear
from distgan.models.places import IMAGE, LATENT
from distgan.models.sides import Resolution, sides
from distgan.second_order import leaky_relu


class MLPGenerator(nn.Module):
    """z (N, latent_dim), c int64 (N,) -> x (N, channels, height, width) in [-1, 1]."""

    def __init__(
        self,
        *,
        latent_dim: int,
        channels: int,
        resolution: Resolution,
        n_classes: int = 0,
        width: int = 128,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        self.shape = (channels, *sides(resolution))
        self.input = LatentInput(latent_dim, 0 if norm == "batch" else n_classes)
        widths = [width, 2 * width, 4 * width]
        sizes = pairwise([self.input.features, *widths])
        self.hidden = nn.ModuleList(linear(a, b, "none", he_init, bias=norm != "batch") for a, b in sizes)
        self.norms = nn.ModuleList(Norm(norm, w, n_classes, flat=True) for w in widths)
        self.output = linear(widths[-1], math.prod(self.shape), "none", he_init)
        self.slope = 0.0 if norm == "batch" else 0.2

    def places(self) -> dict[str, str]:
        """See models/places.py."""
        return {"hidden.0": LATENT, "output": f"{IMAGE} {self.shape[1]}"}

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        h = self.input(z, c)
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            h = leaky_relu(norm(layer(h), c), self.slope, inplace=True)
        return torch.tanh(self.output(h)).view(-1, *self.shape)


class MLPDiscriminator(Discriminator):
    """x (N, channels, height, width), c int64 (N,) -> logits (N,). Batch norm, if any, is on the second hidden
    layer.
    """

    def __init__(
        self,
        *,
        channels: int,
        resolution: Resolution,
        n_classes: int = 0,
        width: int = 128,
        norm: str = "none",
        conditioning: str = "none",
    ) -> None:
        super().__init__()
        self.height = sides(resolution)[0]
        self.first = linear(channels * math.prod(sides(resolution)), 2 * width, norm, he_init)
        self.second = linear(2 * width, width, norm, he_init, bias=norm != "batch")
        self.norm = Norm(norm, width, flat=True)
        self.head = Head(width, n_classes, conditioning, norm, he_init)

    def places(self) -> dict[str, str]:
        return {"first": f"{IMAGE} {self.height}"}

    def stages(self) -> list[list[nn.Module]]:
        return [[self.first], [self.second, self.norm]]

    def features(self, x: Tensor) -> Tensor:
        h = leaky_relu(self.first(x.flatten(1)), 0.2, inplace=True)
        return leaky_relu(self.norm(self.second(h)), 0.2, inplace=True)
