"""The FID Inception v3 of torch-fidelity: what published FIDs are measured with."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torch import Tensor, nn

from distgan.config import ConfigError
from distgan.kinds.image.extractors.base import (
    Network,
    Wanted,
    cached_file,
    read_state,
    rgb,
    weights_file,
    where_to_put,
)

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


def at_hand() -> bool:
    """Whether package and weights are on this machine."""
    return importlib.util.find_spec("torch_fidelity") is not None and cached_file(INCEPTION_URL).is_file()


class Inception(nn.Module):
    def __init__(self, weights: str | Path | None) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise ConfigError(
                "metrics.extractor = 'inception': needs torch-fidelity; `pip install 'distgan[metrics]'` brings it"
            ) from None
        file = weights_file("inception", weights, INCEPTION_URL)
        read_state(
            file
        )  # torch-fidelity unpickles whatever the file holds: first see that it holds nothing but tensors
        try:
            self.net = FeatureExtractorInceptionV3(
                "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file)
            )
        except RuntimeError as error:
            reason = f"not the FID Inception's weights ({str(error)[:200]}); {where_to_put(INCEPTION_URL)}"
            raise ConfigError(f"metrics.weights = {str(file)!r}: {reason}") from None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.net(rgb(images))
        return features, logits


def EXTRACTOR(wanted: Wanted) -> tuple[Network, str]:
    """2048 features and 1008 logits."""
    return Inception(wanted.weights), "inception"
