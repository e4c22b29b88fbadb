"""Fixed random convolutions: nothing to download, and nothing that was learned."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distgan.kinds.image.extractors.base import Network, Wanted


class RandomConv(nn.Module):
    """Means of four levels of fixed random convolutions: compares colour, edges and texture, and knows no objects."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for a, b in pairwise((channels, 32, 64, 64, 96)):
            level = nn.Conv2d(a, b, 3, padding=1)
            nn.init.kaiming_normal_(level.weight)
            self.levels.append(level)

    def forward(self, images: Tensor) -> Tensor:
        x = images.float() / 127.5 - 1
        if max(x.shape[-2:]) > 64:
            height, width = x.shape[-2:]
            size = [max(1, round(64 * side / max(height, width))) for side in (height, width)]
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
        means = []
        for level in self.levels:
            x = F.relu(level(x))
            means.append(x.mean((2, 3)))
            x = F.avg_pool2d(x, 2, ceil_mode=True)
        return torch.cat(means, dim=1)


def EXTRACTOR(wanted: Wanted) -> tuple[Network, str]:
    """For images of any number of channels."""
    return RandomConv(wanted.channels), "random-conv"
