"""Residual networks with pre-activation, as in SNGAN (Miyato et al., Spectral normalization, 2018, tables 3 and 4).

Powers of two from 16 to 1024. `width` is the number of channels at full resolution; it doubles with each halving of the
side, up to 8 times `width` (16 times from 512 pixels on); `widths` names all of them instead, from 4 pixels up. The
paper's pair is g_norm "batch", d_norm "spectral". Without normalisation the second convolution of each block starts at
0 (Zhang et al., Fixup, 2019), so that the net starts as its skips, whatever its depth. Images that are not square:
models/sides.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distgan.models.layers import (
    Discriminator,
    Head,
    LatentInput,
    Norm,
    checked_widths,
    conv,
    he_init,
    is_channels_last,
    laid_out,
    linear,
    pixels,
)
from distgan.models.places import IMAGE, LATENT
from distgan.models.sides import Resolution, base_of, sides
from distgan.second_order import halve, leaky_relu


def stage_widths(resolution: Resolution, width: int, widths: Sequence[int] | None = None) -> list[int]:
    """Channels from the smallest maps to the resolution, 4, 8, ... where it is a power of two: `widths` if given, which
    must be as many (ValueError).

    From 512 pixels on the cap is 16 times `width`: with 32 that is 32 at 1024 pixels and 512 from 64 down, as in Karras
    et al., Analyzing and improving the image quality of StyleGAN, 2020.
    """
    base = base_of(resolution)
    count, most = base.doublings + 1, 8 if max(sides(resolution)) < 512 else 16
    if widths is None:
        return [width * min(most, 2**i) for i in reversed(range(count))]
    return checked_widths(widths, [base.height * 2**i for i in range(count)])


class UpBlock(nn.Module):
    """(N, inputs, S, S) -> (N, outputs, 2 S, 2 S)."""

    def __init__(self, inputs: int, outputs: int, norm: str, n_classes: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = Norm(norm, inputs, n_classes), Norm(norm, outputs, n_classes)
        self.conv1 = conv(inputs, outputs, 3, 1, "none", he_init, bias=norm != "batch")
        self.conv2 = conv(outputs, outputs, 3, 1, "none", he_init)
        self.skip = conv(inputs, outputs, 1, 1, "none", he_init, bias=False)
        self.slope = 0.0 if norm == "batch" else 0.2
        if norm == "none":
            nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        h = F.interpolate(leaky_relu(self.norm1(x, c), self.slope), scale_factor=2)
        h = self.conv2(leaky_relu(self.norm2(self.conv1(h), c), self.slope))
        skip = F.interpolate(self.skip(x), scale_factor=2)  # a 1 x 1 convolution commutes with nearest upsampling
        return torch.add(skip, h)


class DownBlock(nn.Module):
    """(N, inputs, S, S) -> (N, outputs, S / 2, S / 2), or the same side with halve=False. The first block of a net gets
    images: no activation in front.
    """

    def __init__(self, inputs: int, outputs: int, norm: str, *, first: bool = False, halve: bool = True) -> None:
        super().__init__()
        self.norm1 = Norm("none" if first else norm, inputs)
        self.norm2 = Norm(norm, outputs)
        self.conv1 = conv(inputs, outputs, 3, 1, norm, he_init, bias=norm != "batch")
        self.conv2 = conv(outputs, outputs, 3, 1, norm, he_init)
        self.skip = conv(inputs, outputs, 1, 1, norm, he_init, bias=False) if halve or inputs != outputs else None
        self.first, self.halve = first, halve
        self.slope = 0.2 if norm == "none" else 0.0
        if norm == "none":
            nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.first else leaky_relu(self.norm1(x), self.slope)
        h = self.conv2(leaky_relu(self.norm2(self.conv1(h)), self.slope))
        if self.halve:
            h, x = halve(h), halve(x)  # pooling commutes with the 1 x 1 convolution; first is cheaper
        return h + (x if self.skip is None else laid_out(self.skip(x), h))


class ResNetGenerator(nn.Module):
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
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.widths = widths = stage_widths(resolution, width, widths)
        self.input = LatentInput(latent_dim, 0 if norm == "batch" else n_classes)
        self.base = base_of(resolution)
        self.project = linear(self.input.features, widths[0] * self.base.area, "none", he_init)
        self.blocks = nn.ModuleList(UpBlock(a, b, norm, n_classes) for a, b in pairwise(widths))
        self.norm = Norm(norm, widths[-1])
        self.output = conv(widths[-1], channels, 3, 1, "none", he_init)
        self.slope = 0.0 if norm == "batch" else 0.2

    def places(self) -> dict[str, str]:
        """See models/places.py. Sides are those of what a layer reads."""
        low = self.base.height
        height = low * 2 ** len(self.blocks)
        found = {"project": f"{LATENT} {low}", "norm": f"norm {height}", "output": f"{IMAGE} {height}"}
        return found | {f"blocks.{i}": f"up {low * 2**i}" for i in range(len(self.blocks))}

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        h: Tensor = self.project(self.input(z, c))
        h = h.view(h.shape[0], -1, self.base.height, self.base.width)  # len(h) would be a constant to torch.export
        h = laid_out(h, self.output.weight)
        for block in self.blocks:
            h = block(h, c)
        return torch.tanh(self.output(leaky_relu(self.norm(h), self.slope)))


class ResNetDiscriminator(Discriminator):
    """x (N, channels, height, width), c int64 (N,) -> logits (N,)."""

    def __init__(
        self,
        *,
        channels: int,
        resolution: Resolution,
        n_classes: int = 0,
        width: int = 64,
        norm: str = "spectral",
        conditioning: str = "none",
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.height, self.widths = sides(resolution)[0], stage_widths(resolution, width, widths)
        widths = self.widths[::-1]
        self.blocks = nn.Sequential(
            DownBlock(channels, widths[1], norm, first=True),
            *(DownBlock(a, b, norm) for a, b in pairwise(widths[1:])),
            DownBlock(widths[-1], widths[-1], norm, halve=False),
        )
        self.norm = Norm(norm, widths[-1])
        self.head = Head(widths[-1], n_classes, conditioning, norm, he_init)
        self.slope = 0.2 if norm == "none" else 0.0
        # The paper sums over the pixels (4 x 4), which a spectrally normalised net needs to reach logits beyond 1.
        self.pool = torch.sum if norm == "spectral" else torch.mean

    def places(self) -> dict[str, str]:
        last = len(self.blocks) - 1
        found = {f"blocks.{i}": f"down {self.height // 2**i}" for i in range(last)}
        reads = {f"blocks.0.{layer}": f"{IMAGE} {self.height} {layer}" for layer in ("conv1", "skip")}
        return found | reads | {f"blocks.{last}": "last"}

    def stages(self) -> list[list[nn.Module]]:
        return [[block] for block in self.blocks]

    def features(self, x: Tensor) -> Tensor:
        h = leaky_relu(self.norm(self.blocks(x)), self.slope)
        return self.pool(pixels(h), dim=1) if is_channels_last(h) else self.pool(h, dim=(2, 3))
