"""Pretrained networks as what a discriminator on their features needs of them: maps of four scales."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distgan.config import ConfigError
from distgan.models.efficientnet_lite import EfficientNetLite
from distgan.models.pretrained import FILES, find_weights
from distgan.models.weights import read_weights

STRIDES = (4, 8, 16, 32)
"""Of the four maps: pixels of the image, along a side, for each of theirs."""
TRIAL = 64
"""Side of the picture that tells which maps a network has."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pictures in [0, 1]: what torchvision's networks were trained with."""

Place = tuple[nn.Module, int]
"""A module that gives a map, and its number of channels."""


class Maps(nn.Module):
    """A classifier as a network that gives maps: x (N, 3, S, S) in [-1, 1], S a multiple of 32 -> what four of its
    modules give, (N, channels[i], S / STRIDES[i], S / STRIDES[i]).
    """

    def __init__(self, net: nn.Module, places: Sequence[Place]) -> None:
        super().__init__()
        self.net, self.channels = net, tuple(channels for _, channels in places)
        self.seen: dict[int, Tensor] = {}
        for i, (module, _) in enumerate(places):
            module.register_forward_hook(partial(self._see, i))
        # [-1, 1] to [0, 1] to what the network was trained with
        self.scale = nn.Parameter((0.5 / torch.tensor(STD)).view(3, 1, 1))
        self.shift = nn.Parameter(((0.5 - torch.tensor(MEAN)) / torch.tensor(STD)).view(3, 1, 1))

    def _see(self, i: int, module: nn.Module, _: Any, output: Tensor) -> None:
        self.seen[i] = output

    def forward(self, x: Tensor) -> list[Tensor]:
        self.net(x * self.scale + self.shift)
        maps = [self.seen[i] for i in range(len(self.channels))]
        self.seen.clear()
        return maps


Backbone = EfficientNetLite | Maps


def load_backbone(name: str, weights: str | None = None) -> Backbone:
    """The network that model.pretrained calls `name`, with the weights of a file; None = what `find_weights` finds.

    torch's own generator is not moved. Raises ConfigError for files that are missing, cannot be read or do not fit.
    """
    file = find_weights(name, weights)
    where = f"model.pretrained = {name!r}: {file}"
    state = read_weights(file, where)
    try:
        if name in FILES:
            return EfficientNetLite(name, state)
        from torchvision import models

        with torch.random.fork_rng(devices=[]):  # what it draws is overwritten
            net = models.get_model(name.partition(":")[2], weights=None)
        net.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{where} does not fit ({type(error).__name__}: {str(error)[:300]})") from None
    return maps_of(net.eval(), name)


def maps_of(net: nn.Module, name: str) -> Maps:
    """The maps of a classifier: for each of STRIDES what the last module gives whose map has it. Which these are shows
    when it gets a picture. Linear layers behind them are left out.
    """
    found: dict[int, Place] = {}
    seen: list[nn.Module] = []

    def note(module: nn.Module, _: Any, output: Any) -> None:
        seen.append(module)
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3]:
            stride, rest = divmod(TRIAL, output.shape[2])
            if not rest:
                found[stride] = (module, output.shape[1])

    hooks = [module.register_forward_hook(note) for module in net.modules() if module is not net]
    try:
        with torch.no_grad():
            net(torch.zeros(1, 3, TRIAL, TRIAL))
    except Exception as error:  # whatever a network has against small pictures
        told = f"takes no picture of {TRIAL} x {TRIAL} pixels ({str(error)[:200]})"
        raise ConfigError(f"model.pretrained = {name!r}: {told}; try torchvision:resnet18") from None
    finally:
        for hook in hooks:
            hook.remove()
    if not set(STRIDES) <= set(found):
        told = f"has no maps of the strides {', '.join(map(str, STRIDES))}"
        raise ConfigError(f"model.pretrained = {name!r}: {told}; try torchvision:resnet18")
    places = [found[stride] for stride in STRIDES]
    last = max(seen.index(module) for module, _ in places)
    behind = {id(module) for module in seen[last:]} - {id(module) for module in seen[:last]}
    for parent in net.modules():
        for part, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and id(child) in behind:
                setattr(parent, part, nn.Identity())
    return Maps(net, places)
