"""A kind of sample that is no image: signals of 64 numbers, of three classes. All that a kind needs, in one folder."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import numpy as np
import torch

from distgan.config import ConfigError
from distgan.kinds import SampleSet, SampleSpec
from distgan.metrics.extractor import Extractor
from distgan.models import check_labels, try_out
from distgan.randomness import uniform

LENGTH = 64
SPEC = SampleSpec("waves", (LENGTH,), (-2.0, 2.0), ("sine", "square", "saw"))
PEAK = 1000  # stored as int16, thousandths


class Spectrum(torch.nn.Module):
    """The feature extractor: how strong each frequency is, up to the eighth."""

    def forward(self, stored):
        return torch.fft.rfft(stored.float() / PEAK, dim=1).abs()[:, 1:9]


class Signals:
    name, noun, suffixes = "signals", "signals", (".npy", ".csv")

    def knows(self, name):
        return name == "waves"

    def claims(self, name):
        return self.knows(name)

    def like(self, config, spec):
        return config

    def describe(self, config):
        if config.name != "waves" and not config.name.endswith(".npy"):
            raise ConfigError(f"data.name = {config.name!r}: allowed: waves, FILE.npy")
        return replace(SPEC, n=config.limit or 300) if config.name == "waves" else replace(SPEC, classes=())

    def open(self, config, progress=None):
        spec = self.describe(config)
        if config.name != "waves":
            stored = np.load(config.name)
            return SampleSet(replace(spec, n=len(stored)), stored, None, sha256(stored.tobytes()).hexdigest())
        draw, t = np.random.default_rng(0), np.arange(LENGTH) / LENGTH
        labels = np.arange(spec.n) % 3
        phase = (draw.integers(1, 4, (spec.n, 1)) * t + draw.random((spec.n, 1))) % 1
        waves = np.stack([np.sin(2 * np.pi * phase), np.sign(phase - 0.5), 2 * phase - 1])[labels, np.arange(spec.n)]
        stored = np.round(waves * (0.5 + draw.random((spec.n, 1))) * PEAK).astype(np.int16)
        return SampleSet(
            spec if config.labels else replace(spec, classes=()),
            stored,
            labels.astype(np.int64) if config.labels else None,
            sha256(stored.tobytes()).hexdigest(),
        )

    def describe_in_words(self, spec):
        return f"{spec.n} signals of {spec.name}, {LENGTH} numbers"

    def encode(self, stored):
        return stored.float() / PEAK

    def decode(self, x):
        return (x.float() * PEAK).round().clamp(-2 * PEAK, 2 * PEAK).to(torch.int16)

    def vary(self, x, position, config, seed):
        """Upside down half of the time, where data.mirror asks for it."""
        return x * (1 - 2 * (uniform(seed, "mirror", position, 1) < 0.5).float()) if config.mirror else x

    def preview(self, samples, columns=None):
        """Curves below each other: 20 pixels high, 64 wide."""
        picture = np.full((20 * len(samples), LENGTH), 255, np.uint8)
        for i, signal in enumerate(samples):
            height = 10 - np.clip(signal / PEAK * 5, -9, 9).round().astype(int)
            picture[20 * i + height, np.arange(LENGTH)] = 0
        return picture

    def convert(self, stored, spec):
        return stored  # all are of one form

    def save(self, batches, n, target, columns=None, labels=None, classes=()):
        signals = np.concatenate(list(batches))
        if target.suffix == ".npy":
            np.save(target, signals)
        else:
            np.savetxt(target, signals, fmt="%d", delimiter=",")

    def extractor(self, config, spec, device):
        if config.metrics.extractor != "auto":
            raise ConfigError(f"metrics.extractor = {config.metrics.extractor!r}: signals have auto only")
        return Extractor("spectrum", Spectrum(), device, torch.zeros(2, LENGTH, dtype=torch.int16))

    def augmentation(self, config, seed):
        if config.kind == "none":
            return None
        return lambda x, index, p, stream: x * (1 + 0.1 * uniform(seed, f"augment/{stream}", index, 1))

    def recipe(self, config, spec):
        return {"model.latent_dim": 4}

    def decide(self, config, samples):
        return {"loss.r1_gamma": 0.5, "loss.r2_gamma": 1.0, "augment.kind": "none"}

    def network_arguments(self, spec):
        return {"length": spec.shape[0]}

    def check(self, config, spec):
        if config.model.generator is None or config.model.discriminator is None:
            raise ConfigError(f"model.name = {config.model.name!r}: makes images; give networks of your own")
        n_classes = spec.n_classes if config.data.labels else 0
        check_labels(config.model, n_classes)
        arguments = self.network_arguments(spec)
        try_out(config.model, shape=spec.shape, value_range=spec.value_range, n_classes=n_classes, **arguments)
        self.extractor(config, spec, "cpu")


KIND = Signals()
