"""Grouped residual networks without any normalisation (Huang et al., R3GAN, 2024, config E), for RpGAN with R1 and R2.

Powers of two from 16 to 1024. `width` is the number of channels at full resolution; it doubles with each halving of the
side, up to 8 times `width` (16 times from 512 pixels on); `widths` names all of them instead, from 4 pixels up. A block
is an inverted bottleneck: 1 x 1 to twice the channels, 3 x 3 in groups of 16 channels, 1 x 1 back, added to its input.
The settings g_norm and d_norm have no meaning here. Unlike the paper's, the generator ends in tanh.

Under autocast the blocks and resamplings above 4 pixels run in bf16, where nearly all the work is. Both ends stay in
float32: the 4-pixel stage, the layers that meet noise, images and logits, where rounding to 8 bits would be seen in
pixels and in the loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distgan.models.layers import (
    Discriminator,
    DiscriminatorOutput,
    Head,
    LatentInput,
    conv,
    float32,
    he_init,
    is_channels_last,
    laid_out,
    linear,
    pixels,
)
from distgan.models.places import IMAGE, LATENT
from distgan.models.resnet import stage_widths
from distgan.models.sides import Resolution, base_of
from distgan.second_order import Shape, conv2d, leaky_relu

_EXPANSION, _GROUP = 2, 16


class Block(nn.Module):
    """x + f(x), (N, width, S, S). `depth` residual blocks follow each other in the whole net.

    Fixup (Zhang et al., 2019): the last of the m = 3 layers starts at 0, the others at He's scale times depth^(-1 / (2
    m - 2)).
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        inner = _EXPANSION * width
        groups = math.gcd(inner, max(1, inner // _GROUP))
        self.expand = conv(width, inner, 1, 1, "none", he_init)
        self.mix = conv(inner, inner, 3, 1, "none", he_init, groups=groups)
        self.shrink = conv(inner, width, 1, 1, "none", he_init, bias=False)
        with torch.no_grad():
            for layer in (self.expand, self.mix):
                layer.weight.mul_(depth**-0.25)
            self.shrink.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        h = leaky_relu(self.expand(x), 0.2)
        h = leaky_relu(self.mix(h), 0.2)
        return torch.add(x, self.shrink(h))


class Resample(nn.Module):
    """Twice or half the side through the filter [1, 2, 1], and a 1 x 1 convolution where the width changes, at the
    small side.
    """

    kernel: Tensor

    def __init__(self, inputs: int, outputs: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = conv(inputs, outputs, 1, 1, "none", _unit_init, bias=False) if inputs != outputs else nn.Identity()
        line = torch.tensor([1.0, 2.0, 1.0]) / (2 if up else 4)
        width = outputs if up else inputs
        self.register_buffer("kernel", torch.outer(line, line).expand(width, 1, 3, 3).contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        groups = len(self.kernel)
        if self.up:
            return F.conv_transpose2d(self.conv(x), self.kernel, stride=2, padding=1, output_padding=1, groups=groups)
        h: Tensor = self.conv(conv2d(x, self.kernel, None, Shape((2, 2), (1, 1), groups)))
        return h


class R3GANGenerator(nn.Module):
    """z (N, latent_dim), c int64 (N,) -> x (N, channels, height, width) in [-1, 1], float32. For images that are not
    square see models/sides.py.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        channels: int,
        resolution: Resolution,
        n_classes: int = 0,
        width: int = 64,
        norm: str = "none",
        blocks: int = 2,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.widths, self.blocks = stage_widths(resolution, width, widths), blocks
        widths = self.widths
        self.base = base = base_of(resolution)
        depth = blocks * len(widths)
        self.input = LatentInput(latent_dim, n_classes)
        self.basis = nn.Parameter(torch.randn(widths[0], base.height, base.width))
        self.project = linear(self.input.features, widths[0], "none", _unit_init, bias=False)
        layers: list[nn.Module] = [Block(widths[0], depth) for _ in range(blocks)]
        for a, b in pairwise(widths):
            layers += [Resample(a, b, up=True), *(Block(b, depth) for _ in range(blocks))]
        self.body, self.first = nn.Sequential(*layers), blocks
        self.output = conv(widths[-1], channels, 1, 1, "none", _unit_init)

    def places(self) -> dict[str, str]:
        """See models/places.py. Sides are those of what a layer reads."""
        low, number = self.base.height, 0
        found = {"project": f"{LATENT} {low}", "output": f"{IMAGE} {low * 2 ** (len(self.widths) - 1)}"}
        for i in range(len(self.widths)):
            side = low * 2**i
            found |= {f"body.{number + j}": f"block {side} {j}" for j in range(self.blocks)}
            found |= {f"body.{number + self.blocks}": f"up {side}"}
            number += self.blocks + 1
        return found

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        with float32(z):
            weights = self.project(self.input(z.float(), c))
            h = self.body[: self.first](
                laid_out(weights[:, :, None, None] * self.basis, cast("Block", self.body[0]).mix.weight)
            )
        h = self.body[self.first :](h)
        with float32(z):
            return torch.tanh(self.output(h.float()))


class R3GANDiscriminator(Discriminator):
    """x (N, channels, height, width), c int64 (N,) -> logits (N,), float32."""

    def __init__(
        self,
        *,
        channels: int,
        resolution: Resolution,
        n_classes: int = 0,
        width: int = 64,
        norm: str = "none",
        conditioning: str = "none",
        blocks: int = 2,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.widths, self.blocks = stage_widths(resolution, width, widths), blocks
        widths = self.widths[::-1]
        depth = blocks * len(widths)
        layers: list[nn.Module] = [conv(channels, widths[0], 1, 1, "none", _unit_init)]
        for a, b in pairwise(widths):
            layers += [*(Block(a, depth) for _ in range(blocks)), Resample(a, b, up=False)]
        self.body = nn.Sequential(*layers, *(Block(widths[-1], depth) for _ in range(blocks)))
        self.last = len(layers)
        self.base = base = base_of(resolution)
        self.basis = nn.Parameter(torch.randn(widths[-1], base.height, base.width) / base.area**0.5)
        self.head = Head(widths[-1], n_classes, conditioning, "none", _unit_init)

    def places(self) -> dict[str, str]:
        height, number = self.base.height * 2 ** (len(self.widths) - 1), 1
        found = {"body.0": f"{IMAGE} {height}"}
        for i in range(len(self.widths)):
            side = height // 2**i
            found |= {f"body.{number + j}": f"block {side} {j}" for j in range(self.blocks)}
            found |= {f"body.{number + self.blocks}": f"down {side}"}
            number += self.blocks + 1
        return found

    def stages(self) -> list[list[nn.Module]]:
        layers, size = list(self.body), self.blocks + 1
        ends = [0, *range(size + 1, len(layers), size), len(layers)]
        return [layers[start:end] for start, end in pairwise(ends)]

    def features(self, x: Tensor) -> Tensor:
        with float32(x):
            h: Tensor = laid_out(self.body[:1](x.float()), cast("Block", self.body[1]).mix.weight)
        h = self.body[1 : self.last](h)
        with float32(x):
            h = self.body[self.last :](h.float())
            if is_channels_last(h):
                return (pixels(h) * self.basis.flatten(1).t().contiguous()).sum(1)
            return (h * self.basis).sum((2, 3))

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor | DiscriminatorOutput:
        h = self.features(x)
        with float32(x):
            output: Tensor | DiscriminatorOutput = self.head(h, c)
        return output


def _unit_init(weight: Tensor, fan_in: int) -> None:
    """N(0, 1 / fan_in): keeps the size of signals through a layer with no activation behind it."""
    nn.init.normal_(weight, std=fan_in**-0.5)
