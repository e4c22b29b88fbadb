"""What a layer works on, by name, so that the weights of one network find their place in another one of its family.

Layers are numbered, and a number means another side of feature maps in a network for another resolution. So networks
have `places()`: beginnings of their weights' names -> a place, a few words that are the same in networks for other
resolutions where the layer does the same. The first word may say what is particular about the layer:

    "latent ..."    it reads [z, embed(c)]
    "image ..."     it makes images or reads them, and one of its dimensions is the images' channels

Numbers are sides in pixels. What `places()` does not name is called as in the network, and does not depend on the side.
Discriminators have `stages()`: their layers in the order in which images meet them.
"""

from __future__ import annotations

from torch import nn

from distgan.config import ConfigError

LATENT, IMAGE = "latent", "image"


def placed(network: nn.Module) -> dict[str, tuple[str, str]]:
    """Of each name in the network's state_dict its place and its name within that: {"ups.0.bias": ("up 4", "bias")}.

    Networks without `places()`, people's own, are one place, "".
    """
    beginnings: dict[str, str] = network.places() if hasattr(network, "places") else {}  # type: ignore[operator]
    found = {}
    for name in network.state_dict():
        parts = name.split(".")
        heads = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        head = next((head for head in heads if head in beginnings), None)
        found[name] = ("", name) if head is None else (beginnings[head], name[len(head) + 1 :])
    return found


def freeze_nearest(D: nn.Module, count: int) -> None:
    """FreezeD (Mo, Cho, Shin, 2020): the weights of the discriminator's `count` stages nearest the images ask for no
    gradient. Raises ConfigError where D has no so many.
    """
    if not count:
        return
    if not hasattr(D, "stages"):
        raise ConfigError(
            f"training.freeze_d = {count}: {type(D).__name__} does not say which layers are nearest the images; "
            "allowed: 0, or give it a method stages() -> [[module, ...], ...] in the order in which images meet them"
        )
    stages: list[list[nn.Module]] = D.stages()  # type: ignore[operator]
    if count > len(stages):
        raise ConfigError(
            f"training.freeze_d = {count}: this discriminator has {len(stages)} stages before its last layer; allowed: "
            f"0 to {len(stages)}"
        )
    for module in (module for stage in stages[:count] for module in stage):
        module.requires_grad_(False)
