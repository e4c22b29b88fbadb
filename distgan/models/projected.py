"""A discriminator on the features of a frozen, pretrained network (Sauer et al., Projected GANs converge faster, 2021).

    images -> backbone -> four maps -> mixed across channels and scales -> a small head for each
    images ----------------------------------------------------------------> another one            -> their mean

The features know things and textures, and hardly care about tint and single pixels, which one head therefore sees
itself (as in Kumari et al., Ensembling off-the-shelf models for GAN training, 2022, where D's own network stays).

Gradient penalties are on what the heads read, not on the images in front of the backbone: the heads are all that could
become too steep, and nothing frozen is differentiated twice.

Backbone and mixing are not trained: they are no parameters and no buffers, so that no optimiser, average or checkpoint
sees them. A hash of them is a buffer, and a checkpoint that was made with others is refused. Only the heads learn.
Nothing depends on the other images of a batch, and nothing draws.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distgan.config import ConfigError
from distgan.models.backbones import STRIDES, Backbone, load_backbone
from distgan.models.layers import Discriminator, DiscriminatorOutput, Head, conv, flat, he_init
from distgan.second_order import leaky_relu

LEAST = 64
"""Side that smaller images are enlarged to; the deepest map is then 2 x 2."""
UNIT = 1 / 16
"""What maps of size 1 count as under a penalty, so that a weight for images suits them too: there are more numbers in
them, and heads are less steep.
"""
MIXED = 32
"""Channels of the finest map after mixing; each coarser one has twice as many, about as many as a backbone's own."""


class ProjectedDiscriminator(nn.Module):
    """x (N, channels, resolution, resolution) in [-1, 1], c int64 (N,) -> logits (N,), for images of 1 or 3 channels.

    backbone, weights: as for `load_backbone`. side: images are resized to it, a multiple of 32; None = their own, at
    least 64. width: a quarter of a head's channels. norm: "spectral" or "none", of the heads. Raises ConfigError.
    """

    penalised: list[Tensor]
    """What gradients are penalised in, (N, ...) each: set by a pass while D learns, and taken by gan/step.py."""

    digest: Tensor
    gains: Tensor

    def __init__(
        self,
        *,
        channels: int,
        resolution: int,
        n_classes: int = 0,
        width: int = 32,
        norm: str = "spectral",
        conditioning: str = "none",
        backbone: str = "efficientnet-lite0",
        weights: str | None = None,
        side: int | None = None,
    ) -> None:
        super().__init__()
        if side is not None and (side < STRIDES[-1] or side % STRIDES[-1]):
            raise ConfigError(f"model.d_args: side = {side!r}; allowed: multiples of {STRIDES[-1]}, or none")
        self.backbone = backbone
        self.side = side or max(LEAST, -(-resolution // STRIDES[-1]) * STRIDES[-1])
        projection = Projection(load_backbone(backbone, weights))
        self.frozen = Frozen(projection)
        self.register_buffer("digest", self.frozen.digest())
        self.register_buffer("gains", projection.calibrate(self.side))
        self.penalised = []
        of_head: dict[str, Any] = {"norm": norm, "n_classes": n_classes, "conditioning": conditioning}
        self.heads = nn.ModuleList([ScaleHead(channels, resolution, width, 4 * width, **of_head)])
        for inputs, stride in zip(projection.mixed, STRIDES, strict=True):
            self.heads.append(ScaleHead(inputs, self.side // stride, 4 * width, 4 * width, **of_head))
        self.register_load_state_dict_pre_hook(_same_weights)  # type: ignore[no-untyped-call]

    def projected(self, x: Tensor) -> list[Tensor]:
        """What the heads read: four maps of the sides S / 4, S / 8, S / 16, S / 32."""
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if x.shape[-1] != self.side:
            x = F.interpolate(x, size=(self.side, self.side), mode="bilinear", align_corners=False)
        maps: list[Tensor] = self.frozen(x, self.gains)
        return maps

    def features(self, x: Tensor) -> Tensor:
        """The penultimate features of all heads, (N, C, H, W) -> (N, F)."""
        heads = cast("list[ScaleHead]", list(self.heads))
        return torch.cat([head.features(m) for head, m in zip(heads, (x, *self.projected(x)), strict=True)], dim=1)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor | DiscriminatorOutput:
        """Logits (N,), the mean of the heads'; with an auxiliary classifier also its logits (N, K)."""
        maps = [x, *self.projected(x)]
        if torch.is_grad_enabled() and not x.requires_grad and next(self.heads.parameters()).requires_grad:
            self.penalised = [x.detach().requires_grad_(), *((m * UNIT).requires_grad_() for m in maps[1:])]
            maps = [self.penalised[0], *(m / UNIT for m in self.penalised[1:])]
        outputs = [head(m, c) for head, m in zip(self.heads, maps, strict=True)]
        if isinstance(outputs[0], DiscriminatorOutput):
            logits, class_logits = (torch.stack(parts).mean(0) for parts in zip(*outputs, strict=True))
            return DiscriminatorOutput(logits, class_logits)
        return torch.stack(outputs).mean(0)


class ScaleHead(Discriminator):
    """m (N, inputs, side, side) -> logits (N,): strided convolutions down to 4 x 4, at least one convolution in all, of
    `first` channels, twice as many, and so on up to `most`.
    """

    def __init__(
        self, inputs: int, side: int, first: int, most: int, *, norm: str, n_classes: int, conditioning: str
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        outputs = first
        while side > 4:
            self.convs.append(conv(inputs, outputs, 4, 2, norm, he_init))
            inputs, outputs, side = outputs, min(2 * outputs, most), side // 2
        if not self.convs:
            self.convs.append(conv(inputs, outputs, 3, 1, norm, he_init))
            inputs = outputs
        self.head = Head(inputs * side**2, n_classes, conditioning, norm, he_init)

    def features(self, x: Tensor) -> Tensor:
        return flat(self.maps(x))

    def maps(self, x: Tensor) -> Tensor:
        for layer in self.convs:
            x = leaky_relu(layer(x), 0.2, inplace=True)
        return x


class Projection(nn.Module):
    """A backbone, and fixed random convolutions behind it: 1 x 1 on each map, and 3 x 3 from each map, enlarged, to the
    next finer one. Every map of what comes out has a part of all coarser ones.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.mixed = [MIXED * 2**i for i in range(len(backbone.channels))]
        pairs = zip(backbone.channels, self.mixed, strict=True)
        self.across = nn.ModuleList(conv(a, b, 1, 1, "none", _unit_init, bias=False) for a, b in pairs)
        self.down = nn.ModuleList(conv(b, a, 3, 1, "none", _unit_init, bias=False) for a, b in pairwise(self.mixed))

    def calibrate(self, side: int) -> Tensor:
        """What the backbone's maps are multiplied with to be of size 1 or so, float32 (4,): for smooth random pictures
        of this side, and powers of two, so that no rounding makes a difference between machines.
        """
        draw = torch.Generator().manual_seed(0)
        pictures = torch.zeros(8, 3, side, side)
        for cells in (1, 2, 4, 8, 16, 32):
            noise = torch.randn(8, 3, cells, cells, generator=draw)
            pictures += F.interpolate(noise, size=(side, side), mode="bilinear", align_corners=False)
        with torch.no_grad():
            maps = self.backbone(torch.tanh(0.4 * pictures))
        return torch.stack([torch.exp2(-m.square().mean().sqrt().clamp(min=1e-3).log2().round()) for m in maps])

    def forward(self, x: Tensor, gains: Tensor) -> list[Tensor]:
        maps = [mix(m * gain) for mix, m, gain in zip(self.across, self.backbone(x), gains.unbind(), strict=True)]
        for i in reversed(range(len(maps) - 1)):
            coarse = F.interpolate(maps[i + 1], size=maps[i].shape[-2:], mode="bilinear", align_corners=False)
            maps[i] = (maps[i] + self.down[i](coarse)) * 0.5**0.5
        return maps


class Frozen:
    """A network that is none of the module that holds it: no parameter, no buffer, always in evaluation mode. It
    follows its inputs to their device.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = torch.device("cpu")

    def digest(self) -> Tensor:
        """SHA-256 of names and weights, uint8 (32,)."""
        found = hashlib.sha256()
        for name, value in self.net.state_dict().items():
            found.update(name.encode() + value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return torch.tensor(list(found.digest()), dtype=torch.uint8)

    def __call__(self, x: Tensor, *more: Any) -> Any:
        if x.device != self.device:
            self.net.to(x.device)
            self.device = x.device
        return self.net(x.contiguous(memory_format=torch.channels_last), *more)


def _same_weights(module: ProjectedDiscriminator, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before a state is loaded: ConfigError where it was made with another backbone, or other weights of it."""
    before, now = state.get(f"{prefix}digest"), module.digest
    if before is not None and not torch.equal(before.cpu(), now.cpu()):
        raise ConfigError(
            f"model.pretrained = {module.backbone!r}: this was trained with other weights of it, or other random "
            "convolutions behind it (another version of its package, of torch, or another file); bring those back, or "
            "begin anew with another --name"
        )


def _unit_init(weight: Tensor, fan_in: int) -> None:
    """N(0, 1 / fan_in), He's scale where no activation follows."""
    nn.init.normal_(weight, std=fan_in**-0.5)
