"""The network whose features a metric compares. A metric means something only beside the name of its extractor."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from distgan.config import ConfigError


class Extractor:
    """A frozen network: stored samples (N, ...) -> (features float32 (N, dim), logits float32 (N, n_classes) or None).

    name: what to print beside every figure. n_classes: None where the network classifies nothing. digest: changes with
    name and weights. example: two samples as the data set stores them, to learn `dim` from.
    """

    def __init__(self, name: str, net: Callable[[Tensor], Any], device: torch.device | str, example: Tensor) -> None:
        self.name, self.device, self.net = name, torch.device(device), net
        self._rank, self._dtype = example.ndim, example.dtype
        digest = hashlib.sha256(name.encode())
        if isinstance(net, nn.Module):
            net.to(self.device).eval().requires_grad_(False)
            for key, value in net.state_dict().items():
                data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
                digest.update(key.encode() + data)
        self.digest = digest.hexdigest()
        self.dim, self.n_classes = 0, None
        n = len(example)
        features, logits = self(example)
        if features.ndim != 2 or len(features) != n or (logits is not None and (logits.ndim != 2 or len(logits) != n)):
            raise ConfigError(
                f"metrics.extractor = {name!r}: gave features {tuple(features.shape)} for {n} samples; allowed: "
                "(N, dim), or a pair of features (N, dim) and logits (N, classes)"
            )
        self.dim, self.n_classes = features.shape[1], None if logits is None else logits.shape[1]

    @torch.no_grad()
    def __call__(self, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        if samples.dtype != self._dtype or samples.ndim != self._rank:
            raise ValueError(
                f"{self.name}: samples must be {self._dtype} with {self._rank} dimensions, "
                f"got {samples.dtype} {tuple(samples.shape)}"
            )
        with torch.autocast(self.device.type, enabled=False):
            out = self.net(samples.to(self.device))
        features, logits = out if isinstance(out, tuple | list) else (out, None)
        return features.float(), None if logits is None else logits.float()
