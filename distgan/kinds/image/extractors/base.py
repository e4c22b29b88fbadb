"""What extractors share: what is asked of them, and how weights are found and read without running code from them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distgan.config import ConfigError
from distgan.models.weights import read_weights
from distgan.registry import by_path

Network = Callable[[Tensor], Any]
"""images uint8 (N, C, H, W) -> features (N, dim), or (features, logits (N, classes))"""


@dataclass(frozen=True)
class Wanted:
    """What an EXTRACTOR, a function from this to (network, its name beside figures), is asked for."""

    weights: str | Path | None
    channels: int
    data_name: str
    model: str
    """What stands behind the colon in metrics.extractor."""


def own_network(name: str, weights: str | Path | None) -> Network:
    """A network of the user's, from package.module:Class."""
    try:
        made = by_path(name)()
    except (ImportError, AttributeError, TypeError) as error:
        rule = "it must be package.module:Class, called without arguments"
        raise ConfigError(f"metrics.extractor = {name!r}: cannot be made ({error}); {rule}") from error
    if weights is not None:
        load_weights(made, given_file(weights))
    return made  # type: ignore[no-any-return]


def read_state(file: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors or a torch file, without running code from it; ConfigError names a file that is
    neither.
    """
    return read_weights(file, f"metrics.weights = {str(file)!r}:")


def load_weights(net: nn.Module, file: Path) -> None:
    """Give a network the weights in a file. Raises ConfigError."""
    try:
        net.load_state_dict(read_state(file))
    except RuntimeError as error:
        raise ConfigError(f"metrics.weights = {str(file)!r}: does not fit the network ({str(error)[:300]})") from None


def weights_file(name: str, weights: str | Path | None, url: str) -> Path:
    """The given file, else the one in torch's cache, else downloaded into it."""
    if weights is not None:
        return given_file(weights, url)
    file = cached_file(url)
    if not file.is_file():
        from filelock import FileLock

        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{file}.lock"):
                if not file.is_file():  # another process of this machine may have been first
                    torch.hub.download_url_to_file(url, str(file), progress=False)
        except OSError as error:
            reason = f"its weights are not on this machine and the download failed ({error})"
            raise ConfigError(f"metrics.extractor = {name!r}: {reason}; {where_to_put(url)}") from None
    return file


def given_file(weights: str | Path, url: str = "") -> Path:
    """The file that metrics.weights names. Raises ConfigError where it is not there."""
    file = Path(os.path.expanduser(weights))
    if not file.is_file():
        raise ConfigError(
            f"metrics.weights = {str(weights)!r}: no such file" + (f"; {where_to_put(url)}" if url else "")
        )
    return file


def cached_file(url: str) -> Path:
    """Where torch keeps what it downloads from there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)


def where_to_put(url: str) -> str:
    """For an error: where the weights are to be had, and where they belong."""
    place = f"put it at {cached_file(url)} ($TORCH_HOME/hub/checkpoints), or name it with metrics.weights"
    return f"the file is {os.path.basename(url)} from {url}; {place}"


class OverWhiteAndBlack(nn.Module):
    """Premultiplied RGBA images uint8 (N, 4, H, W) over white and over black through a network for RGB: the features of
    both side by side, and the mean of the logits. Over one background alone, a white thing could not be told from a
    hole.
    """

    NOTE = " over white and black"

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        colours, opacity = images[:, :3], images[:, 3:]
        found = [self.net(layer) for layer in (colours + (255 - opacity), colours)]  # no colour is above its opacity
        pairs = [out if isinstance(out, tuple | list) else (out, None) for out in found]
        (white, of_white), (black, of_black) = pairs
        logits = None if of_white is None else (of_white + of_black) / 2
        return torch.cat([white, black], 1), logits


def rgb(images: Tensor) -> Tensor:
    """Images (N, 1 or 3, H, W) as (N, 3, H, W)."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
