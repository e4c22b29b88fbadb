"""Strided and transposed 4 x 4 convolutions (Radford et al., DCGAN, 2016), with or without normalisation.

Resolution 28 (7-14-28) and the powers of two from 16 to 256 (4-8-...). `width` is the number of channels of the feature
map of the highest resolution (half the image's side, as in the paper); it doubles with each halving of the side, up to
8 times `width`; `widths` names all of them instead, from the smallest map up. With batch normalisation the weights
start at N(0, 0.02), as in the paper. Without, they start at He's scale, and the generator uses leaky ReLUs: such
networks are meant for a loss with R1 and R2 penalties.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from distgan.models.layers import (
    Discriminator,
    Head,
    LatentInput,
    Norm,
    checked_widths,
    conv,
    dcgan_init,
    flat,
    he_init,
    laid_out,
    linear,
    up_conv,
)
from distgan.models.places import IMAGE, LATENT
from distgan.second_order import leaky_relu


def stage_widths(resolution: int, width: int, widths: Sequence[int] | None = None) -> tuple[int, list[int]]:
    """(side of the smallest feature map, channels from the smallest to the largest feature map): `widths` if given,
    which must be as many (ValueError).
    """
    start = 7 if resolution == 28 else 4
    count = (resolution // start).bit_length() - 1
    if widths is not None:
        return start, checked_widths(widths, [start * 2**i for i in range(count)])
    return start, [width * min(8, 2**i) for i in reversed(range(count))]


class DCGANGenerator(nn.Module):
    """z (N, latent_dim), c int64 (N,) -> x (N, channels, resolution, resolution) in [-1, 1]."""

    def __init__(
        self,
        *,
        latent_dim: int,
        channels: int,
        resolution: int,
        n_classes: int = 0,
        width: int = 64,
        norm: str = "batch",
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.start, widths = stage_widths(resolution, width, widths)
        self.widths = widths
        init, plain = (dcgan_init, False) if norm == "batch" else (he_init, True)
        self.input = LatentInput(latent_dim, n_classes if plain else 0)
        self.project = linear(self.input.features, widths[0] * self.start**2, "none", init, bias=plain)
        self.norms = nn.ModuleList(Norm(norm, w, n_classes) for w in widths)
        self.ups = nn.ModuleList(up_conv(a, b, init, bias=plain) for a, b in pairwise(widths))
        self.ups.append(up_conv(widths[-1], channels, init))
        self.slope = 0.2 if plain else 0.0

    def places(self) -> dict[str, str]:
        """See models/places.py. Sides are those of what a layer reads."""
        sides = [self.start * 2**i for i in range(len(self.widths))]
        found = {"project": f"{LATENT} {self.start}"}
        for i, side in enumerate(sides):
            found |= {f"norms.{i}": f"norm {side}", f"ups.{i}": f"up {side}"}
        return found | {f"ups.{len(sides) - 1}": f"{IMAGE} {2 * sides[-1]}"}

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        h: Tensor = self.project(self.input(z, c))
        h = h.view(h.shape[0], -1, self.start, self.start)  # len(h) would be a constant to torch.export
        h = laid_out(h, cast("nn.ConvTranspose2d", self.ups[0]).weight)
        for norm, up in zip(self.norms, self.ups, strict=True):
            h = up(leaky_relu(norm(h, c), self.slope, inplace=True))
        return torch.tanh(h)


class DCGANDiscriminator(Discriminator):
    """x (N, channels, resolution, resolution), c int64 (N,) -> logits (N,). Batch norm, if any, is on all but the first
    layer.
    """

    def __init__(
        self,
        *,
        channels: int,
        resolution: int,
        n_classes: int = 0,
        width: int = 64,
        norm: str = "batch",
        conditioning: str = "none",
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        side, widths = stage_widths(resolution, width, widths)
        self.resolution, self.start, self.widths = resolution, side, widths
        widths = widths[::-1]
        init = dcgan_init if norm == "batch" else he_init
        self.first = conv(channels, widths[0], 4, 2, norm, init)
        self.downs = nn.ModuleList(conv(a, b, 4, 2, norm, init, bias=norm != "batch") for a, b in pairwise(widths))
        self.norms = nn.ModuleList(Norm(norm, w) for w in widths[1:])
        self.head = Head(widths[-1] * side**2, n_classes, conditioning, norm, init)

    def places(self) -> dict[str, str]:
        sides = [self.resolution // 2 ** (i + 1) for i in range(len(self.downs) + 1)]
        found = {"first": f"{IMAGE} {self.resolution}", "head": f"head {self.start}"}
        for i, side in enumerate(sides[:-1]):
            found |= {f"downs.{i}": f"down {side}", f"norms.{i}": f"norm {sides[i + 1]}"}
        return found

    def stages(self) -> list[list[nn.Module]]:
        return [[self.first], *([down, norm] for down, norm in zip(self.downs, self.norms, strict=True))]

    def features(self, x: Tensor) -> Tensor:
        return flat(self.maps(x))

    def maps(self, x: Tensor) -> Tensor:
        h = leaky_relu(self.first(x), 0.2, inplace=True)
        for down, norm in zip(self.downs, self.norms, strict=True):
            h = leaky_relu(norm(down(h)), 0.2, inplace=True)
        return h
