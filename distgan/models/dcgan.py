"""Strided and transposed 4 x 4 convolutions (Radford et al., DCGAN, 2016), with or without normalisation.

Resolution 28 (7-14-28) and the powers of two from 16 to 256 (4-8-...). `width` is the number of channels of the feature
map of the highest resolution (half the image's side, as in the paper); it doubles with each halving of the side, up to
8 times `width`; `widths` names all of them instead, from the smallest map up. The generator's maps grow by transposed
convolutions, as in the paper, which may leave a checkerboard (Odena et al., 2016), or by bilinear interpolation and a
3 x 3 convolution, which leave none. With batch normalisation the weights start at N(0, 0.02), as in the paper. Without,
they start at He's scale, and the generator uses leaky ReLUs: such networks are meant for a loss with R1 and R2
penalties.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from distgan.models.layers import (
    BilinearConv,
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
from distgan.models.sides import Base, Resolution, base_of, sides
from distgan.second_order import leaky_relu


def stage_widths(resolution: Resolution, width: int, widths: Sequence[int] | None = None) -> tuple[Base, list[int]]:
    """(smallest feature map, channels from the smallest to the largest feature map): `widths` if given, which must be
    as many (ValueError).
    """
    start = base_of(resolution)
    if widths is not None:
        return start, checked_widths(widths, [start.height * 2**i for i in range(start.doublings)])
    return start, [width * min(8, 2**i) for i in reversed(range(start.doublings))]


class DCGANGenerator(nn.Module):
    """z (N, latent_dim), c int64 (N,) -> x (N, channels, height, width) in [-1, 1]."""

    def __init__(
        self,
        *,
        latent_dim: int,
        channels: int,
        resolution: Resolution,
        n_classes: int = 0,
        width: int = 64,
        norm: str = "batch",
        upsampling: str = "transposed",
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.start, widths = stage_widths(resolution, width, widths)
        self.widths = widths
        init, plain = (dcgan_init, False) if norm == "batch" else (he_init, True)
        up = up_conv if upsampling == "transposed" else BilinearConv
        self.input = LatentInput(latent_dim, n_classes if plain else 0)
        self.project = linear(self.input.features, widths[0] * self.start.area, "none", init, bias=plain)
        self.norms = nn.ModuleList(Norm(norm, w, n_classes) for w in widths)
        self.ups = nn.ModuleList(up(a, b, init, bias=plain) for a, b in pairwise(widths))
        self.ups.append(up(widths[-1], channels, init))
        self.slope = 0.2 if plain else 0.0

    def places(self) -> dict[str, str]:
        """See models/places.py. Sides are those of what a layer reads."""
        heights = [self.start.height * 2**i for i in range(len(self.ups))]
        found = {"project": f"{LATENT} {self.start.height}"}
        for i, height in enumerate(heights):
            found |= {f"norms.{i}": f"norm {height}", f"ups.{i}": f"up {height}"}
        return found | {f"ups.{len(heights) - 1}": f"{IMAGE} {2 * heights[-1]}"}

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        h: Tensor = self.project(self.input(z, c))
        h = h.view(h.shape[0], -1, self.start.height, self.start.width)  # len(h) would be a constant to torch.export
        h = laid_out(h, next(self.ups.parameters()))
        for norm, up in zip(self.norms, self.ups, strict=True):
            h = up(leaky_relu(norm(h, c), self.slope, inplace=True))
        return torch.tanh(h)


class DCGANDiscriminator(Discriminator):
    """x (N, channels, height, width), c int64 (N,) -> logits (N,). Batch norm, if any, is on all but the first
    layer.
    """

    def __init__(
        self,
        *,
        channels: int,
        resolution: Resolution,
        n_classes: int = 0,
        width: int = 64,
        norm: str = "batch",
        conditioning: str = "none",
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        start, widths = stage_widths(resolution, width, widths)
        self.height, self.start, self.widths = sides(resolution)[0], start, widths
        widths = widths[::-1]
        init = dcgan_init if norm == "batch" else he_init
        self.first = conv(channels, widths[0], 4, 2, norm, init)
        self.downs = nn.ModuleList(conv(a, b, 4, 2, norm, init, bias=norm != "batch") for a, b in pairwise(widths))
        self.norms = nn.ModuleList(Norm(norm, w) for w in widths[1:])
        self.head = Head(widths[-1] * start.area, n_classes, conditioning, norm, init)

    def places(self) -> dict[str, str]:
        heights = [self.height // 2 ** (i + 1) for i in range(len(self.downs) + 1)]
        found = {"first": f"{IMAGE} {self.height}", "head": f"head {self.start.height}"}
        for i, height in enumerate(heights[:-1]):
            found |= {f"downs.{i}": f"down {height}", f"norms.{i}": f"norm {heights[i + 1]}"}
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
