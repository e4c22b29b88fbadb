"""Measurement of the averaged generator during a run: metrics, and the sample grid at fixed latents."""

from __future__ import annotations

import math
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distgan.config import RunConfig
from distgan.export.generator import GRID_CLASSES
from distgan.kinds import Kind, SampleSet
from distgan.kinds.picture import Picture
from distgan.randomness import integers, latents
from distgan.storage import Folder
from distgan.training.context import Context

NUMBERS = 2**23
"""In the samples that are made at once: 682 of 64 x 64 pixels in colour, 2 of 1,024 x 1,024."""


class Measurement:
    """Metrics and previews of generators G, on the same latents and labels each time."""

    def __init__(self, config: RunConfig, context: Context, samples: SampleSet, kind: Kind, folder: Folder) -> None:
        self.config, self.context, self.samples, self.kind, self.folder = config, context, samples, kind, folder
        self._evaluator: Any = None
        conditional = config.model.conditioning != "none" and samples.labels is not None
        self._labels = torch.as_tensor(samples.labels, device=context.device) if conditional else None

    def __call__(self, G: nn.Module, n: int) -> dict[str, float]:
        """The metrics of n samples of G; all workers call it and get the same numbers."""
        if self._evaluator is None:
            self._evaluator = self._prepare()
        labels = self.labels if self._labels is not None else None
        measured: dict[str, float] = self._evaluator.evaluate(lambda index: self.sample(G, index), n, labels)
        return measured

    @property
    def counts(self) -> list[float] | None:
        """Samples by class (k,) in the last measurement, where the extractor classifies by the data's labels."""
        if self._evaluator is None or not self._evaluator.knows_labels or self._evaluator.histogram is None:
            return None
        counts: list[float] = self._evaluator.histogram.tolist()
        return counts

    @torch.inference_mode()
    def sample(self, G: nn.Module, index: Tensor) -> Tensor:
        """Samples as stored (N, ...), of measuring indices int64 (N,); labels are distributed as in the data."""
        index = index.to(self.context.device)
        settings = self.config.model
        z = latents(self.config.seed, "measure/z", index, settings.latent_dim, settings.latent)
        return self._make(G, z, self.labels(index) if self._labels is not None else None)

    def labels(self, index: Tensor) -> Tensor:
        """The classes asked for in measuring indices int64 (N,)."""
        assert self._labels is not None
        return self._labels[integers(self.config.seed, "measure/c", index.to(self.context.device), len(self._labels))]

    @torch.inference_mode()
    def grid(self, G: nn.Module) -> NDArray[Any]:
        """The samples of the grid as stored, (log.grid, ...); with labels, one class a column."""
        n = self.config.log.grid
        index = torch.arange(n, device=self.context.device)
        settings = self.config.model
        z = latents(self.config.seed, "grid/z", index, settings.latent_dim, settings.latent)
        c = index % (self.columns or len(self.samples.classes)) if self._labels is not None else None
        return self._make(G, z, c).cpu().numpy()

    def _make(self, G: nn.Module, z: Tensor, c: Tensor | None) -> Tensor:
        """Samples as stored; large ones in parts, as the networks' layers between are larger still."""
        most = max(1, NUMBERS // max(1, math.prod(self.samples.spec.shape)))
        labels = torch.split(c, most) if c is not None else [None] * len(z)
        pairs = zip(torch.split(z, most), labels, strict=False)
        return torch.cat([self.kind.decode(G(part, label)) for part, label in pairs])

    def preview(self, G: nn.Module) -> Picture:
        """The grid as a picture."""
        return self.kind.preview(self.grid(G), self.columns)

    @property
    def columns(self) -> int | None:
        """Columns of the sample grid: the classes, if there are labels and not too many; None = a square."""
        count = len(self.samples.classes)
        return count if self._labels is not None and 1 < count <= GRID_CLASSES else None

    def _prepare(self) -> Any:
        from distgan.metrics.evaluator import Evaluator, statistics_dir

        settings = self.config.metrics
        return Evaluator(
            self.samples.samples,
            self.samples.labels,
            self.samples.fingerprint,
            self.kind.extractor(self.config, self.samples.spec, self.context.device),
            list(settings.names),
            cache_dir=statistics_dir(),
            store=self.folder.child("statistics"),
            context=self.context,
            batch_size=settings.batch_size,
        )
