"""What the families share: normalisation that may depend on the class, the discriminator's last layer, and
initialisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from distgan.second_order import Conv2d, autocasts, no_autocast

Init = Callable[[Tensor, int], None]
Pairs = tuple[tuple[int, int], ...]

FEW = 64
"""Classes up to which products with the rows of all of them cost less than an operation by elements with the rows that
are asked for.
"""


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

    def maps(self, x: Tensor) -> Tensor:
        """What the head reads: the features, or maps (N, F / (H W), H, W) that hold them."""
        return self.features(x)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor | DiscriminatorOutput:
        """Logits (N,) of images x (N, C, H, W) with classes c int64 (N,); with an auxiliary classifier also its logits
        (N, K).
        """
        output: Tensor | DiscriminatorOutput = self.head(self.maps(x), c)
        return output


class Head(nn.Module):
    """Features h (N, F), or feature maps that hold them, to logits.

    conditioning: "none": w h + b. "projection": + e(c) h (Miyato and Koyama, cGANs with projection discriminator, 2018,
    eq. 4). "auxiliary": a second output with class logits (Odena et al., AC-GAN, 2017, section 3).

    w and the rows of a few classes are one matrix, which h is multiplied with once: the product with e(c) by elements
    of h would make ten of the kind in the gradients of a penalty. Of h's two orders it is the matrix that is brought
    into the other's.
    """

    def __init__(self, features: int, n_classes: int, conditioning: str, norm: str, init: Init) -> None:
        super().__init__()
        self.logit = linear(features, 1, norm, init)
        self.embed: nn.Embedding | None = None
        self.classify: nn.Linear | None = None
        if n_classes and conditioning == "projection":
            self.embed = nn.Embedding(n_classes, features)
            init(self.embed.weight, features)
            if norm == "spectral":
                spectral_norm(self.embed)  # in place
        elif n_classes and conditioning == "auxiliary":
            self.classify = linear(features, n_classes, norm, init)

    def forward(self, h: Tensor, c: Tensor | None) -> Tensor | DiscriminatorOutput:
        if autocasts(h):
            with float32(h):  # logits too
                return self.forward(h.float(), c)
        rows = [self.logit.weight]
        if self.embed is not None and self.embed.num_embeddings <= FEW:
            rows.append(self.embed.weight)
        if self.classify is not None:
            rows.append(self.classify.weight)
        matrix = torch.cat(rows) if len(rows) > 1 else rows[0]
        if h.ndim == 2:
            features = h
        elif is_channels_last(h):
            features = pixels(h).flatten(1)
            matrix = matrix.view(len(matrix), h.shape[1], -1).transpose(1, 2).flatten(1)
        else:
            features = h.flatten(1)
        if len(matrix) == 1:
            logits = F.linear(features, matrix, self.logit.bias).squeeze(1)
        else:
            outputs = F.linear(features, matrix)
            logits = outputs[:, 0] + self.logit.bias
        if self.classify is not None:
            return DiscriminatorOutput(logits, outputs[:, 1:] + self.classify.bias)
        if self.embed is None:
            return logits
        if c is None:
            raise ValueError("a discriminator with model.conditioning = 'projection' needs classes c, int64 (N,)")
        of_class: Tensor = (
            outputs[:, 1:].gather(1, c[:, None])[:, 0] if len(rows) > 1 else (self.embed(c) * flat(h)).sum(1)
        )
        return logits + of_class


class Norm(nn.Module):
    """Normalisation in front of an activation, (N, C, ...) -> (N, C, ...).

    kind "batch": batch normalisation, whose scale and shift come from the class where n_classes > 0 (Dumoulin et al.,
    2017; de Vries et al., 2017). Any other kind: nothing (spectral normalisation is a property of the weights, see
    `conv`).
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

    oneDNN works on 16 channels at a time, and takes as long for that gradient as for 16 channels. As a matrix product
    over patches of the image it takes a quarter of the time. The same sums, in another order.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not _thin(x) or not x.requires_grad:
            return super().forward(x)
        weight = self.weight  # once: with spectral normalisation each look at it is an iteration
        grid = Grid.of(self, x.shape[2], x.shape[3])
        padded = F.pad(x, grid.padding).flatten(1)
        patches = padded.index_select(1, grid.places()).view(-1, grid.taps)  # a row for each pixel that is made
        h = F.linear(patches, weight.flatten(1), self.bias)
        h = h.view(len(x), grid.height, grid.width, -1).permute(0, 3, 1, 2)
        return h if is_channels_last(weight) else h.contiguous()


class GreyConvTranspose2d(nn.ConvTranspose2d):
    """nn.ConvTranspose2d that doubles the side, for images of one channel: the counterpart of `GreyConv2d`."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not _thin(x):
            return super().forward(x, output_size)
        grid = Grid.of(self, 2 * x.shape[2], 2 * x.shape[3])
        patches = pixels(x) @ self.weight.flatten(1)
        padded = patches.new_zeros(len(x), grid.padded_height * grid.padded_width)
        padded = padded.index_add(1, grid.places(), patches.flatten(1))
        h = F.pad(padded.view(-1, 1, grid.padded_height, grid.padded_width), [-side for side in grid.padding])
        return h if self.bias is None else h + self.bias.to(h.dtype)[:, None, None]


class Grid(NamedTuple):
    """Where a convolution's kernel lies on a padded image of one channel."""

    height: int
    """Places of the kernel, one below the other and side by side."""
    width: int
    padded_height: int
    padded_width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    """left, right, above, below"""

    @classmethod
    def of(cls, layer: nn.Conv2d | nn.ConvTranspose2d, height: int, width: int) -> Grid:
        (above, left), (tall, wide), (down, right) = cast("Pairs", (layer.padding, layer.kernel_size, layer.stride))
        padded_height, padded_width = height + 2 * above, width + 2 * left
        return cls(
            (padded_height - tall) // down + 1,
            (padded_width - wide) // right + 1,
            padded_height,
            padded_width,
            (tall, wide),
            (down, right),
            (left, left, above, above),
        )

    @property
    def taps(self) -> int:
        """Pixels under the kernel."""
        return self.kernel[0] * self.kernel[1]

    def places(self) -> Tensor:
        """int64 (height width taps,): the pixels of a padded image under the kernel, place for place."""
        return _places(self)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # whoever asks first: an inference tensor could not be used in training later
def _places(grid: Grid) -> Tensor:
    rows = torch.arange(grid.height)[:, None] * grid.stride[0] + torch.arange(grid.kernel[0])
    columns = torch.arange(grid.width)[:, None] * grid.stride[1] + torch.arange(grid.kernel[1])
    return (rows[:, None, :, None] * grid.padded_width + columns[None, :, None, :]).flatten()


def checked_widths(widths: Sequence[int], sides: Sequence[int]) -> list[int]:
    """Channels that a person named, one for each side of feature maps. Raises ValueError."""
    if len(widths) != len(sides) or any(isinstance(w, bool) or not isinstance(w, int) or w < 1 for w in widths):
        raise ValueError(
            f"widths must be {len(sides)} whole numbers >= 1, one for each side ({', '.join(map(str, sides))}), got "
            f"{list(widths)}"
        )
    return list(widths)


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of images or of a kernel, (N, C, H, W) with H, W > 1, lie side by side in memory."""
    return x.ndim == 4 and x.stride(1) == 1


def laid_out(h: Tensor, like: Tensor) -> Tensor:
    """Feature maps h (N, C, H, W) in the layout of what meets them: a convolution's weight, or other maps.

    Convolutions and their gradients are in the layout of the weight. An operation by elements that meets both layouts
    is 20 to 40 times slower on CPUs (torch 2.14), so that two such meetings undo what a faster layout gains.
    """
    return h.contiguous(memory_format=torch.channels_last) if is_channels_last(like) else h


def flat(h: Tensor) -> Tensor:
    """Feature maps (N, C, H, W) -> (N, C H W), in the same order whatever their layout; the gradient comes back in
    their layout.
    """
    if not is_channels_last(h):
        return h.flatten(1)
    n, c = h.shape[:2]
    return h.permute(0, 2, 3, 1).reshape(n, -1).view(n, -1, c).transpose(1, 2).reshape(n, -1)


def pixels(h: Tensor) -> Tensor:
    """Feature maps (N, C, H, W) -> (N, H W, C), a view where they are channels last."""
    return h.permute(0, 2, 3, 1).flatten(1, 2)


def float32(x: Tensor) -> AbstractContextManager[Any]:
    """A region without autocast, on x's device."""
    return no_autocast(x)


def _thin(x: Tensor) -> bool:
    """Where oneDNN is slow on one channel: on CPUs. What is exported keeps the plain layers."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def dcgan_init(weight: Tensor, fan_in: int) -> None:
    """N(0, 0.02), as in Radford et al. (DCGAN, 2016), section 4."""
    nn.init.normal_(weight, std=0.02)


def he_init(weight: Tensor, fan_in: int) -> None:
    """N(0, 2 / ((1 + 0.2^2) fan_in)): keeps the size of signals through leaky ReLUs of slope 0.2 (He et al., 2015, eq.
    15).
    """
    nn.init.normal_(weight, std=math.sqrt(2 / (1.04 * fan_in)))


def conv(
    inputs: int, outputs: int, kernel: int, stride: int, norm: str, init: Init, *, bias: bool = True, groups: int = 1
) -> nn.Conv2d:
    """A convolution that keeps (stride 1) or halves (stride 2) the side; with spectral normalisation where norm is
    "spectral".
    """
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


class BilinearConv(nn.Module):
    """Doubles the side by bilinear interpolation, then a 3 x 3 convolution: each pixel is made in the same way, so that
    no pattern of every second one is left (Odena et al., Deconvolution and Checkerboard Artifacts, 2016).
    """

    def __init__(self, inputs: int, outputs: int, init: Init, *, bias: bool = True) -> None:
        super().__init__()
        self.conv = conv(inputs, outputs, 3, 1, "none", init, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
        return h


def linear(inputs: int, outputs: int, norm: str, init: Init, *, bias: bool = True) -> nn.Linear:
    """A linear layer; with spectral normalisation where norm is "spectral"."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    init(layer.weight, inputs)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    if norm == "spectral":
        spectral_norm(layer)  # in place
    return layer
