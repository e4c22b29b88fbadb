"""Stacked MNIST: three digits as the colours of one image, 1000 classes, for counting how many modes a generator
covers.

Metz et al., Unrolled Generative Adversarial Networks (ICLR 2017), section 3.3.1; class = 100 r + 10 g + b.
"""

from __future__ import annotations

import numpy as np

from distgan.config import ConfigError, DataConfig
from distgan.kinds.base import Progress, SampleSet, SampleSpec
from distgan.kinds.image.cache import Writer, cached
from distgan.kinds.image.image_set import first, image_spec
from distgan.kinds.image.known import KnownSource
from distgan.kinds.image.pixels import Target
from distgan.kinds.image.sets import mnist, mnist10k

IMAGES = 50_000
STEP = 1000  # images written at once
SEED = 1000  # the set is the same for every run, worker and machine


class StackedDigits:
    """Stacked MNIST, from the full MNIST where data.root has it, else from the built-in digits."""

    def __init__(self, config: DataConfig) -> None:
        if config.channels not in (None, 3):
            raise ConfigError(
                f"data.channels = {config.channels}: stacked-mnist is three digits in three channels; allowed: 3, or "
                "leave it empty"
            )
        if config.split not in ("train", "test", "all"):
            raise ConfigError(
                f"data.split = {config.split!r}: stacked-mnist has no such part; allowed: train, test, all"
            )
        self.config = config
        plain = config.model_copy(update={"name": "mnist", "limit": None, "labels": True, "channels": None})
        self.digits = KnownSource(plain, mnist.SET)
        if not self.digits.present():
            if config.split == "test":
                raise ConfigError(
                    "data.split = 'test': the built-in digits are training digits; allowed: train, or put MNIST into "
                    "data.root"
                )
            self.digits = KnownSource(plain.model_copy(update={"name": "mnist10k"}), mnist10k.SET)
        self.classes = tuple(f"{k:03d}" for k in range(1000)) if config.labels else ()

    def describe(self) -> SampleSpec:
        """All of it is known beforehand."""
        n = first(self.config, IMAGES)
        return image_spec("stacked-mnist", 3, self._target.resolution, self.classes, n)

    def open(self, progress: Progress | None = None) -> SampleSet:
        """50,000 images (or data.limit), made once and memory-mapped."""
        digits = self.digits.open(progress)
        n = first(self.config, IMAGES)
        key = {"set": "stacked-mnist", "digits": digits.fingerprint, "n": n, "labels": self.config.labels, "seed": SEED}
        return cached(self.config, "stacked-mnist", key, lambda writer: self._build(writer, digits, n))

    @property
    def _target(self) -> Target:
        return self.digits.target

    def _build(self, writer: Writer, digits: SampleSet, n: int) -> None:
        import torch

        from distgan.randomness import integers

        choice = integers(SEED, "stacked-mnist", torch.arange(3 * n), len(digits)).view(n, 3).numpy()
        for start in range(0, n, STEP):
            writer.add(digits.samples[choice[start : start + STEP], 0])
        if self.config.labels and digits.labels is not None:
            writer.labels = digits.labels[choice] @ np.array([100, 10, 1])
            writer.classes = self.classes


SET = StackedDigits
