"""Weights of other people's networks, from a file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from distgan.config import ConfigError


def read_weights(file: Path, where: str) -> dict[str, Tensor]:
    """A state dict from .safetensors or a torch file, without running code from it. where: the setting and its value,
    with which ConfigError begins for a file that is neither.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(file))
        return dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # every reader has its own
        raise ConfigError(f"{where} cannot be read as weights ({str(error)[:200]})") from None
