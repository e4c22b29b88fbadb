"""Style-based networks (Karras et al., A style-based generator architecture, 2019; Analyzing and improving the image
quality of StyleGAN, 2020).

Resolution 28 (7-14-28) and the powers of two from 16 to 1024 (4-8-...). `width` is the number of channels at full
resolution; it doubles with each halving of the side, up to 8 times `width`, 16 times from 512 pixels on; `widths` names
all of them, from the smallest side up. A small network maps z and the class to a style w. From w come factors for the
channels in front of each convolution, and their effect on the size of signals is divided out behind it (2020, eq. 1 to
3). Each side adds its part to an image that is scaled up through a filter, and the discriminator is residual (2020,
section 4.1). The settings g_norm and d_norm have no meaning here.

All weights start at N(0, 1) and are scaled where they are used, so that one learning rate suits layers of all widths
(Karras et al., Progressive growing of GANs, 2018, section 4.1).

Unlike the papers': no noise in the pixels and no mixing of styles in training, so that an image is a function of z and
c alone; the generator ends in tanh; no regularisation of path lengths; no standard deviation over the batch; the
discriminator halves by means over 2 x 2 pixels.

Under autocast the wide maps are bf16. Styles, the image that is summed up, the discriminator's first layer and its end
are float32, where rounding to 8 bits would be seen in pixels and in the loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distgan.models.layers import Discriminator, DiscriminatorOutput, Head, flat, float32, laid_out
from distgan.models.places import IMAGE, LATENT
from distgan.models.resnet import stage_widths
from distgan.models.sides import Resolution, base_of, sides
from distgan.second_order import Shape, conv2d, halve, leaky_relu

SLOPE = 0.2
GAIN = math.sqrt(2 / (1 + SLOPE**2))
"""Undoes what a leaky ReLU takes of the size of signals (He et al., 2015, eq. 15)."""


class EqualLinear(nn.Module):
    """x (N, inputs) -> (N, outputs), with weights from N(0, 1).

    gain: size of the outputs for inputs of size 1. rate: factor of the learning rate, for Adam. start: the bias. known:
    how many of the inputs there are whatever the data, which the scale is for, so that weights mean the same beside
    others; None = all.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        gain: float = 1.0,
        rate: float = 1.0,
        start: float = 0.0,
        known: int | None = None,
    ) -> None:
        super().__init__()
        known = known or inputs
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * ((known / inputs) ** 0.5 / rate))
        self.bias = nn.Parameter(torch.full((outputs,), start / rate))
        self.scale, self.rate = gain * rate * known**-0.5, rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class EqualConv2d(nn.Module):
    """x (N, inputs, S, S) -> (N, outputs, S, S), with weights from N(0, 1); for an odd kernel.

    halved: followed by the mean over 2 x 2 pixels, as one convolution of stride 2 with a kernel wider by 1. gain,
    known: as for `EqualLinear`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        gain: float = 1.0,
        bias: bool = True,
        halved: bool = False,
        known: int | None = None,
    ) -> None:
        super().__init__()
        known = known or inputs
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) * (known / inputs) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale, self.halved = gain * (known * kernel**2) ** -0.5, halved
        self.shape = Shape((2, 2) if halved else (1, 1), (kernel // 2, kernel // 2))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * (self.scale / 4 if self.halved else self.scale)
        if self.halved:
            rows = F.pad(weight, (0, 0, 0, 1)) + F.pad(weight, (0, 0, 1, 0))
            weight = F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))
        return conv2d(x, weight, self.bias, self.shape)


class Blur(nn.Module):
    """The filter [1, 3, 3, 1] both ways, for maps into which zeros were put between pixels: together, bilinear
    upsampling.
    """

    kernel: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(line, line).expand(width, 1, 4, 4).contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, width, 2 S + 1, 2 S + 1) -> (N, width, 2 S, 2 S)."""
        return F.conv2d(x, self.kernel, padding=1, groups=len(self.kernel))

    def up(self, x: Tensor) -> Tensor:
        """Maps (N, width, S, S) -> (N, width, 2 S, 2 S)."""
        return F.conv_transpose2d(x, self.kernel, stride=2, padding=1, groups=len(self.kernel))


class StyledConv(nn.Module):
    """x (N, inputs, S, S), style w (N, styles) -> (N, outputs, S, S), or with up=True twice the side.

    A factor of each channel, which follows from w, scales the kernel's inputs, and each output channel is divided by
    the length of its scaled kernel (2020, eq. 1 and 3). Scaling what goes in and what comes out does the same with one
    kernel for all samples, and a convolution with a kernel a sample takes 2 to 28 times as long on CPUs. The length
    takes the size of the weights with it, so that they need no scale.
    """

    def __init__(self, inputs: int, outputs: int, styles: int, *, up: bool = False) -> None:
        super().__init__()
        self.affine = EqualLinear(styles, inputs, start=1.0)
        shape = (inputs, outputs, 3, 3) if up else (outputs, inputs, 3, 3)  # as torch's transposed convolution has it
        self.weight = nn.Parameter(torch.randn(shape))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.blur = Blur(outputs) if up else None

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        with float32(w):
            style = self.affine(w)
            power = self.weight.square().sum((2, 3))
            length = style.square() @ (power if self.blur is not None else power.t())
            after = GAIN * torch.rsqrt(length + 1e-8)
        h = x * style.to(x.dtype)[:, :, None, None]
        # Zeros between pixels, a kernel and a filter: the same as upsampling first, at a quarter of the products
        h = F.conv2d(h, self.weight, padding=1) if self.blur is None else F.conv_transpose2d(h, self.weight, stride=2)
        if self.blur is not None:
            h = self.blur(h)
        h = torch.addcmul(self.bias.to(h.dtype)[:, None, None], h, after.to(h.dtype)[:, :, None, None])
        return leaky_relu(h, SLOPE, inplace=True)


class ToImage(nn.Module):
    """x (N, inputs, S, S), style w (N, styles) -> (N, channels, S, S), float32: a styled 1 x 1 convolution whose size
    is not divided out.

    gain: size of what it makes at the start.
    """

    def __init__(self, inputs: int, channels: int, styles: int, gain: float) -> None:
        super().__init__()
        self.affine = EqualLinear(styles, inputs, start=1.0)
        self.weight = nn.Parameter(gain * torch.randn(channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.scale = inputs**-0.5

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        with float32(w):
            h = x.float() * (self.affine(w) * self.scale)[:, :, None, None]
            return F.conv2d(h, self.weight, self.bias)


class Mapping(nn.Module):
    """z (N, latent_dim), c int64 (N,) -> style w (N, width), float32.

    z and an embedding of the class, each brought to length sqrt(latent_dim), then `layers` layers that learn at a
    hundredth of the rate (2019, section 2 and appendix C).
    """

    def __init__(self, latent_dim: int, n_classes: int, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(n_classes, latent_dim) if n_classes else None
        sizes = [latent_dim * (2 if n_classes else 1), *[width] * layers]
        known = [latent_dim, *sizes[1:]]
        self.layers = nn.ModuleList(
            EqualLinear(a, b, gain=GAIN, rate=0.01, known=k) for (a, b), k in zip(pairwise(sizes), known, strict=False)
        )

    def forward(self, z: Tensor, c: Tensor | None) -> Tensor:
        h = _normalised(z)
        if self.embed is not None:
            h = torch.cat([h, _normalised(self.embed(c))], dim=1)
        for layer in self.layers:
            h = leaky_relu(layer(h), SLOPE, inplace=True)
        return h


class StyleGenerator(nn.Module):
    """z (N, latent_dim), c int64 (N,) -> x (N, channels, height, width) in [-1, 1], float32.

    styles: length of w; layers: those of the mapping.
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
        widths: Sequence[int] | None = None,
        styles: int | None = None,
        layers: int = 2,
    ) -> None:
        super().__init__()
        self.widths = widths = stage_widths(resolution, width, widths)
        styles = styles or widths[0]
        self.base = base = base_of(resolution)
        self.mapping = Mapping(latent_dim, n_classes, styles, layers)
        self.constant = nn.Parameter(torch.randn(widths[0], base.height, base.width))
        convs = [StyledConv(widths[0], widths[0], styles)]
        for a, b in pairwise(widths):
            convs += [StyledConv(a, b, styles, up=True), StyledConv(b, b, styles)]
        self.convs = nn.ModuleList(convs)
        gain = len(widths) ** -0.5  # the sum starts at size 1
        self.images = nn.ModuleList(ToImage(w, channels, styles, gain) for w in widths)
        self.blur = Blur(channels)

    def places(self) -> dict[str, str]:
        """See models/places.py. Sides are those of what a layer makes."""
        low = self.base.height
        found = {"constant": f"constant {low}", "mapping.layers.0": f"{LATENT} {low}", "convs.0": f"conv {low}"}
        for i in range(len(self.images)):
            found |= {f"images.{i}": f"{IMAGE} {low * 2**i}", f"images.{i}.affine": f"style {low * 2**i}"}
            if i:
                found |= {f"convs.{2 * i - 1}": f"up {low * 2**i}", f"convs.{2 * i}": f"conv {low * 2**i}"}
        return found

    def map(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """z (N, latent_dim), c int64 (N,) -> styles w (N, styles), float32."""
        with float32(z):
            w: Tensor = self.mapping(z.float(), c)
        return w

    def synthesize(self, w: Tensor) -> Tensor:
        """Styles w (N, styles) -> x (N, channels, height, width) in [-1, 1], float32."""
        first = cast("StyledConv", self.convs[0])
        h = laid_out(self.constant.expand(w.shape[0], -1, -1, -1), first.weight)
        h = first(h, w)
        x = self.images[0](h, w)
        for i in range(1, len(self.images)):
            for conv in self.convs[2 * i - 1 : 2 * i + 1]:
                h = conv(h, w)
            part = self.images[i](h, w)
            with float32(w):
                x = self.blur.up(x) + part
        return torch.tanh(x)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self.synthesize(self.map(z, c))


class DownBlock(nn.Module):
    """(N, inputs, S, S) -> (N, outputs, S / 2, S / 2): two convolutions, and the input through a 1 x 1 one beside them
    (2020, figure 7).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = 0.5**0.5  # the sum of two keeps the size of one
        self.conv1 = EqualConv2d(inputs, inputs, 3, gain=GAIN)
        self.conv2 = EqualConv2d(inputs, outputs, 3, gain=GAIN * half, halved=True)
        self.skip = EqualConv2d(inputs, outputs, 1, gain=half, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = leaky_relu(self.conv1(x), SLOPE, inplace=True)
        h = leaky_relu(self.conv2(h), SLOPE, inplace=True)
        return torch.add(h, self.skip(halve(x)))


class StyleDiscriminator(Discriminator):
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
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.height, self.widths, base = (
            sides(resolution)[0],
            stage_widths(resolution, width, widths),
            base_of(resolution),
        )
        widths, features = self.widths[::-1], self.widths[0]
        self.first = EqualConv2d(channels, widths[0], 1, gain=GAIN, known=1)
        self.blocks = nn.Sequential(*(DownBlock(a, b) for a, b in pairwise(widths)))
        self.last = EqualConv2d(features, features, 3, gain=GAIN)
        self.dense = EqualLinear(features * base.area, features, gain=GAIN)
        self.head = Head(features, n_classes, conditioning, "none", _unit)
        self.scale = features**-0.5

    def places(self) -> dict[str, str]:
        """Sides are those of what a layer reads."""
        heights = [self.height // 2**i for i in range(len(self.widths))]
        found = {"first": f"{IMAGE} {heights[0]}", "dense": f"dense {heights[-1]}", "head": f"head {heights[-1]}"}
        return found | {f"blocks.{i}": f"down {height}" for i, height in enumerate(heights[:-1])}

    def stages(self) -> list[list[nn.Module]]:
        return [[self.first], *([block] for block in self.blocks), [self.last, self.dense]]

    def features(self, x: Tensor) -> Tensor:
        with float32(x):
            h = leaky_relu(laid_out(self.first(x.float()), self.last.weight), SLOPE, inplace=True)
        h = self.blocks(h)
        with float32(x):
            h = leaky_relu(self.last(h.float()), SLOPE, inplace=True)
            return leaky_relu(self.dense(flat(h)), SLOPE, inplace=True)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor | DiscriminatorOutput:
        h = self.features(x)
        with float32(x):
            output: Tensor | DiscriminatorOutput = self.head(h * self.scale, c)
        return output


def _normalised(x: Tensor) -> Tensor:
    """x (N, F), each row with a mean square of 1."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


def _unit(weight: Tensor, fan_in: int) -> None:
    """N(0, 1): what is multiplied with has been divided by sqrt(fan_in)."""
    nn.init.normal_(weight)
