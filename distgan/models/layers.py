"""What the families share: normalisation that may depend on the class, the discriminator's last layer, and initialisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from distgan.second_order import Conv2d

Init = Callable[[Tensor, int], None]


class DiscriminatorOutput(NamedTuple):
    """What a discriminator with an auxiliary classifier returns."""

    logits: Tensor
    """(N,), real or generated"""
    class_logits: Tensor
    """(N, n_classes)"""


class Discriminator(nn.Module):
    """A network body `features`, x (N, C, H, W) -> h (N, F), and a head on it."""

    head: Head

    def features(self, x: Tensor) -> Tensor:
        """The penultimate features of images, (N, C, H, W) -> (N, F); what a linear probe reads."""
        raise NotImplementedError

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor | DiscriminatorOutput:
        """Logits (N,) of images x (N, C, H, W) with classes c int64 (N,); with an auxiliary classifier also its logits (N, K)."""
        output: Tensor | DiscriminatorOutput = self.head(self.features(x), c)
        return output


class Head(nn.Module):
    """Features h (N, F) to logits.

    conditioning: "none": w h + b. "projection": + e(c) h (Miyato and Koyama, cGANs with projection discriminator, 2018, eq. 4).
    "auxiliary": a second output with class logits (Odena et al., AC-GAN, 2017, section 3).
    """

    def __init__(self, features: int, n_classes: int, conditioning: str, norm: str, init: Init) -> None:
        super().__init__()
        self.logit = linear(features, 1, norm, init)
        self.embed: nn.Module | None = None
        self.classify: nn.Module | None = None
        if n_classes and conditioning == "projection":
            embed = nn.Embedding(n_classes, features)
            init(embed.weight, features)
            self.embed = spectral_norm(embed) if norm == "spectral" else embed
        elif n_classes and conditioning == "auxiliary":
            self.classify = linear(features, n_classes, norm, init)

    def forward(self, h: Tensor, c: Tensor | None) -> Tensor | DiscriminatorOutput:
        logits: Tensor = self.logit(h).squeeze(1)
        if self.embed is not None:
            projection: Tensor = (self.embed(c) * h).sum(1)
            return logits + projection
        if self.classify is not None:
            return DiscriminatorOutput(logits, self.classify(h))
        return logits


class Norm(nn.Module):
    """Normalisation in front of an activation, (N, C, ...) -> (N, C, ...).

    kind "batch": batch normalisation, whose scale and shift come from the class where n_classes > 0 (Dumoulin et al., 2017;
    de Vries et al., 2017). Any other kind: nothing (spectral normalisation is a property of the weights, see `conv`).
    """

    def __init__(self, kind: str, features: int, n_classes: int = 0, *, flat: bool = False) -> None:
        super().__init__()
        self.norm: nn.Module | None = None
        self.scale: nn.Embedding | None = None
        self.shift: nn.Embedding | None = None
        if kind == "batch":
            self.norm = (nn.BatchNorm1d if flat else nn.BatchNorm2d)(features, affine=not n_classes)
            if n_classes:
                self.scale, self.shift = nn.Embedding(n_classes, features), nn.Embedding(n_classes, features)
                nn.init.ones_(self.scale.weight)
                nn.init.zeros_(self.shift.weight)

    def forward(self, h: Tensor, c: Tensor | None = None) -> Tensor:
        if self.norm is None:
            return h
        h = self.norm(h)
        if self.scale is None or self.shift is None:
            return h
        shape = (h.shape[0], h.shape[1], *[1] * (h.ndim - 2))
        return torch.addcmul(self.shift(c).view(shape), h, self.scale(c).view(shape))


class LatentInput(nn.Module):
    """z (N, latent_dim), and where n_classes > 0 an embedding of the class as long as z beside it."""

    def __init__(self, latent_dim: int, n_classes: int = 0) -> None:
        super().__init__()
        self.embed = nn.Embedding(n_classes, latent_dim) if n_classes else None
        self.features = latent_dim * (2 if n_classes else 1)

    def forward(self, z: Tensor, c: Tensor | None) -> Tensor:
        return z if self.embed is None else torch.cat([z, self.embed(c)], dim=1)


class GreyConv2d(Conv2d):
    """Conv2d for images of one channel, whose gradient in the image is fast on CPUs too.

    oneDNN works on 16 channels at a time, and takes as long for that gradient as for 16 channels. As a matrix product over patches of
    the image it takes a quarter of the time, the gradient penalties two thirds. The same sums, in another order.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not _thin(x) or not x.requires_grad:
            return super().forward(x)
        patches = F.unfold(x, self.kernel_size, padding=self.padding, stride=self.stride)  # type: ignore[arg-type]
        if is_channels_last(self.weight):
            h = F.linear(patches.transpose(1, 2), self.weight.flatten(1), self.bias)
            return h.view(len(h), *self._side(x), -1).permute(0, 3, 1, 2)
        h = self.weight.flatten(1) @ patches
        if self.bias is not None:
            h = h + self.bias.to(h.dtype)[:, None]
        return h.view(*h.shape[:2], *self._side(x))

    def _side(self, x: Tensor) -> list[int]:
        sizes = zip(x.shape[2:], self.kernel_size, self.padding, self.stride, strict=True)
        return [(size + 2 * pad - kernel) // stride + 1 for size, kernel, pad, stride in sizes]  # type: ignore[operator]


class GreyConvTranspose2d(nn.ConvTranspose2d):
    """nn.ConvTranspose2d that doubles the side, for images of one channel: the counterpart of `GreyConv2d`, at a quarter of the time."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not _thin(x):
            return super().forward(x, output_size)
        patches = self.weight.flatten(1).t() @ x.flatten(2)
        side = (2 * x.shape[2], 2 * x.shape[3])
        h = F.fold(patches, side, self.kernel_size, padding=self.padding, stride=self.stride)  # type: ignore[arg-type]
        return h if self.bias is None else h + self.bias.to(h.dtype)[:, None, None]


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of images or of a kernel, (N, C, H, W) with H, W > 1, lie side by side in memory."""
    return x.ndim == 4 and x.stride(1) == 1


def laid_out(h: Tensor, weight: Tensor) -> Tensor:
    """Feature maps h (N, C, H, W) in the layout of the convolution's weight that meets them.

    Convolutions and their gradients are in the layout of the weight. An operation by elements that meets both layouts is 20 to 40
    times slower on CPUs (torch 2.14), so that two such meetings undo what a faster layout gains.
    """
    return h.contiguous(memory_format=torch.channels_last) if is_channels_last(weight) else h


def flat(h: Tensor) -> Tensor:
    """Feature maps (N, C, H, W) -> (N, C H W), in the same order whatever their layout; the gradient comes back in their layout."""
    if not is_channels_last(h):
        return h.flatten(1)
    n, c = h.shape[:2]
    return h.permute(0, 2, 3, 1).reshape(n, -1).view(n, -1, c).transpose(1, 2).reshape(n, -1)


def pixels(h: Tensor) -> Tensor:
    """Feature maps (N, C, H, W) -> (N, H W, C), a view where they are channels last."""
    return h.permute(0, 2, 3, 1).flatten(1, 2)


def _thin(x: Tensor) -> bool:
    """Where oneDNN is slow on one channel: on CPUs. What is exported keeps the plain layers."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def dcgan_init(weight: Tensor, fan_in: int) -> None:
    """N(0, 0.02), as in Radford et al. (DCGAN, 2016), section 4."""
    nn.init.normal_(weight, std=0.02)


def he_init(weight: Tensor, fan_in: int) -> None:
    """N(0, 2 / ((1 + 0.2^2) fan_in)): keeps the size of signals through leaky ReLUs of slope 0.2 (He et al., 2015, eq. 15)."""
    nn.init.normal_(weight, std=math.sqrt(2 / (1.04 * fan_in)))


def conv(inputs: int, outputs: int, kernel: int, stride: int, norm: str, init: Init, *, bias: bool = True, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps (stride 1) or halves (stride 2) the side; with spectral normalisation where norm is "spectral"."""
    kind = GreyConv2d if inputs == 1 and kernel > 1 else Conv2d
    layer = kind(inputs, outputs, kernel, stride, (kernel - stride + 1) // 2, bias=bias, groups=groups)
    init(layer.weight, inputs // groups * kernel**2)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    if norm == "spectral":
        spectral_norm(layer)  # in place
    return layer


def up_conv(inputs: int, outputs: int, init: Init, *, bias: bool = True) -> nn.ConvTranspose2d:
    """A transposed 4 x 4 convolution that doubles the side."""
    layer = (GreyConvTranspose2d if outputs == 1 else nn.ConvTranspose2d)(inputs, outputs, 4, 2, 1, bias=bias)
    init(layer.weight, inputs * 4)  # with stride 2, an output pixel sees 2 x 2 of the kernel's taps
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def linear(inputs: int, outputs: int, norm: str, init: Init, *, bias: bool = True) -> nn.Linear:
    """A linear layer; with spectral normalisation where norm is "spectral"."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    init(layer.weight, inputs)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    if norm == "spectral":
        spectral_norm(layer)  # in place
    return layer
