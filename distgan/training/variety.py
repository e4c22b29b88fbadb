"""How much generated samples differ from each other, beside the data's own: what tells a collapse of the generator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distgan.config import RunConfig
from distgan.gan.diversity import diversity, main_directions
from distgan.kinds import Kind, SampleSet
from distgan.randomness import latents
from distgan.training.context import Context

SAMPLES, REAL, CLASSES, DIRECTIONS = 128, 512, 8, 16
"""Generated samples that are looked at, real ones that they are compared with, of so many classes at most; and the main
directions of the data."""
NUMBERS = 2**24
"""Large samples are fewer: so many numbers in all (64 MiB)."""


class Variety:
    """The diversity of a generator's samples, always of the same latents and labels. Every worker computes the same.

    The real samples are as many of each class, evenly spread over the set.
    """

    def __init__(self, config: RunConfig, context: Context, samples: SampleSet, kind: Kind) -> None:
        self.config, self.device = config, context.device
        most = max(16, NUMBERS // max(1, int(np.prod(samples.spec.shape))))
        n_real, self.n = min(REAL, most), min(SAMPLES, most)
        labels = samples.labels if config.model.conditioning != "none" else None
        c_real = self.labels = None
        if labels is None:
            places = _spread(np.arange(len(samples)), n_real)
        else:
            counts = np.bincount(labels)
            several = np.flatnonzero(counts > 1)
            chosen = _spread(several if len(several) else np.flatnonzero(counts), CLASSES)
            places = np.concatenate([_spread(np.flatnonzero(labels == k), n_real // len(chosen)) for k in chosen])
            c_real = torch.as_tensor(labels[places], device=self.device)
            self.labels = torch.as_tensor(np.resize(chosen, self.n), device=self.device)
        real = kind.encode(torch.from_numpy(samples.samples[places]).to(self.device))
        self.deviation = diversity(real, c_real)
        self.directions = main_directions(real, c_real, DIRECTIONS)
        self.main = diversity(real.flatten(1) @ self.directions, c_real)

    @torch.no_grad()
    def __call__(self, G: nn.Module) -> dict[str, float]:
        """The deviation of the samples of G over that of real ones, within classes; 1 is right, 0 is one for all.

        diversity: over all numbers of a sample. diversity_main: along the directions in which the data differ most,
        where noise counts little. Both are 1 where the data leave nothing to compare with.
        """
        model, index = self.config.model, torch.arange(self.n, device=self.device)
        z = latents(self.config.seed, "health/z", index, model.latent_dim, model.latent)
        training = [module for module in G.modules() if module.training]
        for module in training:  # running statistics must not move
            module.training = False
        try:
            fake: Tensor = G(z, self.labels).float()
        finally:
            for module in training:
                module.training = True
        over_all = diversity(fake, self.labels), self.deviation
        main = diversity(fake.flatten(1) @ self.directions, self.labels), self.main
        return {"diversity": _ratio(*over_all), "diversity_main": _ratio(*main)}


def _ratio(fake: Tensor, real: Tensor) -> float:
    ratio = float(fake / real.clamp(min=1e-6))
    return ratio if float(real) > 1e-6 and np.isfinite(ratio) else 1.0


def _spread(items: NDArray[Any], n: int) -> NDArray[Any]:
    """At most n of the items, evenly spread."""
    return items[np.linspace(0, len(items) - 1, max(1, min(n, len(items)))).astype(np.int64)]
