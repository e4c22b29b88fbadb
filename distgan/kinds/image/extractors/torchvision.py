"""The classifiers of torchvision, as torchvision:NAME."""

from __future__ import annotations

import difflib

import torch.nn.functional as F
from torch import Tensor, nn

from distgan.config import ConfigError
from distgan.kinds.image.extractors.base import Network, Wanted, load_weights, rgb, weights_file


class LastHidden(nn.Module):
    """Features are what enters a classifier's last linear layer, logits what leaves it."""

    def __init__(self, net: nn.Module, side: int, classifies: bool) -> None:
        super().__init__()
        self.net, self.side, self.classifies = net, side, classifies
        self.seen: list[Tensor] = []
        last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
        last.register_forward_pre_hook(lambda _, args: self.seen.append(args[0]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        x = rgb(images).float() / 255
        x = F.interpolate(x, size=(self.side, self.side), mode="bilinear", align_corners=False, antialias=True)
        mean, std = x.new_tensor([0.485, 0.456, 0.406]), x.new_tensor([0.229, 0.224, 0.225])
        logits = self.net((x - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        return self.seen.pop(), logits if self.classifies else None


def EXTRACTOR(wanted: Wanted) -> tuple[Network, str]:
    """That model's last hidden layer; weights "none" leaves it random."""
    from torchvision import models

    model, weights, name = wanted.model, wanted.weights, f"torchvision:{wanted.model}"
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
        load_weights(net, weights_file(name, weights, known.url))
    return LastHidden(
        net, 299 if model == "inception_v3" else 224, classifies=not random
    ), f"{name}(random)" if random else name
