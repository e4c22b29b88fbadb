"""Measurement of the averaged generator during a run: metrics, and the sample grid at fixed latents."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from distgan.config import RunConfig
from distgan.export.generator import GRID_CLASSES, to_uint8
from distgan.kinds.image import ImageSet
from distgan.randomness import integers, latents
from distgan.storage import Folder
from distgan.training.context import Context


class Measurement:
    """Metrics and grids of generators G, on the same latents and labels each time."""

    def __init__(self, config: RunConfig, context: Context, images: ImageSet, folder: Folder) -> None:
        self.config, self.context, self.images, self.folder = config, context, images, folder
        self._evaluator: Any = None
        conditional = config.model.conditioning != "none" and images.labels is not None
        self._labels = torch.as_tensor(images.labels, device=context.device) if conditional else None

    def __call__(self, G: nn.Module, n: int) -> dict[str, float]:
        """The metrics of n images of G; all workers call it and get the same numbers."""
        if self._evaluator is None:
            self._evaluator = self._prepare()
        labels = self.labels if self._labels is not None else None
        measured: dict[str, float] = self._evaluator.evaluate(lambda index: self.sample(G, index), n, labels)
        return measured

    @property
    def counts(self) -> list[float] | None:
        """Images by class (k,) in the last measurement, where the extractor classifies by the data's labels."""
        if self._evaluator is None or not self._evaluator.knows_labels or self._evaluator.histogram is None:
            return None
        counts: list[float] = self._evaluator.histogram.tolist()
        return counts

    @torch.inference_mode()
    def sample(self, G: nn.Module, index: Tensor) -> Tensor:
        """Images uint8 (N, C, H, W) of measuring samples int64 (N,); labels are distributed as in the data."""
        index = index.to(self.context.device)
        settings = self.config.model
        z = latents(self.config.seed, "measure/z", index, settings.latent_dim, settings.latent)
        return to_uint8(G(z, self.labels(index) if self._labels is not None else None))

    def labels(self, index: Tensor) -> Tensor:
        """The classes asked for in measuring samples int64 (N,)."""
        assert self._labels is not None
        return self._labels[integers(self.config.seed, "measure/c", index.to(self.context.device), len(self._labels))]

    @torch.inference_mode()
    def grid(self, G: nn.Module) -> npt.NDArray[np.uint8]:
        """The images of the sample grid, uint8 (log.grid, C, H, W); with labels, one class a column."""
        n = self.config.log.grid
        index = torch.arange(n, device=self.context.device)
        settings = self.config.model
        z = latents(self.config.seed, "grid/z", index, settings.latent_dim, settings.latent)
        c = index % (self.columns or len(self.images.classes)) if self._labels is not None else None
        parts = [to_uint8(G(z[i : i + 256], c[i : i + 256] if c is not None else None)) for i in range(0, n, 256)]
        return torch.cat(parts).cpu().numpy()

    @property
    def columns(self) -> int | None:
        """Columns of the sample grid: the classes, if there are labels and not too many; None = a square."""
        count = len(self.images.classes)
        return count if self._labels is not None and 1 < count <= GRID_CLASSES else None

    def _prepare(self) -> Any:
        from distgan.kinds.image.extractors import get_extractor
        from distgan.metrics.evaluator import Evaluator, statistics_dir

        settings = self.config.metrics
        extractor = get_extractor(
            settings.extractor,
            self.context.device,
            settings.weights,
            data_channels=self.images.channels,
            resolution=self.images.resolution,
            data_name=self.config.data.name,
        )
        return Evaluator(
            self.images.images,
            self.images.labels,
            self.images.fingerprint,
            extractor,
            list(settings.names),
            cache_dir=statistics_dir(),
            store=self.folder.child("statistics"),
            context=self.context,
            batch_size=settings.batch_size,
        )
