"""The body of EfficientNet-Lite0 and -Lite1, for frozen features.

Inverted bottlenecks (Tan and Le, EfficientNet, 2019, table 1) with ReLU6 and without squeeze-and-excitation, which is
what "Lite" means. A frozen net's batch norm is a scale and a shift for each channel, so that here it is part of the
convolution in front of it: the same numbers in two thirds of the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distgan.config.algorithm import PRETRAINED
from distgan.second_order import Conv2d

State = Mapping[str, Tensor]
EPS = 1e-3
"""What batch norm adds to the variance in these networks."""


class Stage(NamedTuple):
    """Some blocks with the same number of channels; the first of them has the stride."""

    kernel: int
    stride: int
    channels: int
    blocks: tuple[int, int]
    """Their number in lite0 and in lite1."""


STAGES = (
    Stage(3, 1, 16, (1, 1)),
    Stage(3, 2, 24, (2, 3)),
    Stage(5, 2, 40, (2, 3)),
    Stage(3, 2, 80, (3, 4)),
    Stage(5, 1, 112, (3, 4)),
    Stage(5, 2, 192, (4, 5)),
    Stage(3, 1, 320, (1, 1)),
)
STEM = 32


class EfficientNetLite(nn.Module):
    """x (N, 3, S, S) in [-1, 1] -> maps of the strides 4, 8, 16 and 32: 24, 40, 112 and 320 channels.

    Each map is what leaves the last block before the side is halved again.
    """

    channels = (24, 40, 112, 320)

    def __init__(self, name: str, state: State) -> None:
        """state: the published weights, which name their tensors _conv_stem.weight, _blocks.0._depthwise_conv.weight
        and so on. Raises KeyError for a tensor that is not there, ValueError for one of another shape.
        """
        super().__init__()
        lite = PRETRAINED.index(name)
        self.stem = Same(state, "_conv_stem", "_bn0", STEM, 3, 3, 2)
        self.stages = nn.ModuleList()
        inputs, number = STEM, 0
        for stage in STAGES:
            blocks = nn.Sequential()
            for i in range(stage.blocks[lite]):
                stride = stage.stride if i == 0 else 1
                expansion = 1 if number == 0 else 6
                blocks.append(Block(state, f"_blocks.{number}.", inputs, stage, stride, expansion))
                inputs, number = stage.channels, number + 1
            self.stages.append(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        h = F.relu6(self.stem((127.5 * x + 0.5) / 128), inplace=True)  # they were trained on (0..255 - 127) / 128
        maps = []
        for i, blocks in enumerate(self.stages):
            h = blocks(h)
            if i == len(STAGES) - 1 or (i > 0 and STAGES[i + 1].stride == 2):
                maps.append(h)
        return maps


class Block(nn.Module):
    """An inverted bottleneck: a 1 x 1 convolution to more channels, one for each channel, and back."""

    def __init__(self, state: State, at: str, inputs: int, stage: Stage, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand: nn.Module | None = None
        if expansion > 1:
            self.expand = Same(state, f"{at}_expand_conv", f"{at}_bn0", wide, inputs, 1)
        self.depthwise = Same(state, f"{at}_depthwise_conv", f"{at}_bn1", wide, 1, stage.kernel, stride, wide)
        self.project = Same(state, f"{at}_project_conv", f"{at}_bn2", stage.channels, wide, 1)
        self.skips = stride == 1 and inputs == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        wide = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        h: Tensor = self.project(F.relu6(self.depthwise(wide), inplace=True))
        return h + x if self.skips else h


class Same(Conv2d):
    """A convolution and the batch norm behind it, padded so that the side S becomes ceil(S / stride): where the padding
    is uneven, below and on the right is more of it.
    """

    def __init__(
        self,
        state: State,
        conv: str,
        norm: str,
        outputs: int,
        inputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(inputs * groups, outputs, kernel, stride, 0 if stride > 1 else kernel // 2, groups=groups)
        weight = _get(state, f"{conv}.weight", (outputs, inputs, kernel, kernel))
        scale, shift, mean, variance = (
            _get(state, f"{norm}.{part}", (outputs,)) for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = scale / torch.sqrt(variance + EPS)
        assert self.bias is not None
        with torch.no_grad():
            self.weight.copy_(weight * scale.view(-1, 1, 1, 1))
            self.bias.copy_(shift - mean * scale)

    def forward(self, x: Tensor) -> Tensor:
        stride, kernel = self.stride[0], self.kernel_size[0]
        if stride > 1:
            height, width = ((-(-side // stride) - 1) * stride + kernel - side for side in x.shape[-2:])
            height, width = max(height, 0), max(width, 0)
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


def _get(state: State, name: str, shape: tuple[int, ...]) -> Tensor:
    tensor = state[name].double()
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} is {tuple(tensor.shape)}, expected {shape}")
    return tensor
