"""What one pass over samples leaves behind, mergeable over ranks and storable; and the real side's own derived
values.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from distgan.metrics.class_statistics import ClassStatistics
from distgan.metrics.collective import Collective
from distgan.metrics.moments import Moments, frechet_distance

Value = TypeVar("Value")


class Accumulator:
    """Moments and class statistics of all samples, features of some (rows, dim), and how many labels the classifier
    confirmed.
    """

    def __init__(self, dim: int, n_classes: int | None, device: torch.device) -> None:
        self.moments = Moments(dim, device)
        self.classes = None if n_classes is None else ClassStatistics(n_classes, device)
        self.recognised = torch.zeros((), dtype=torch.float64, device=device)
        self.features = torch.zeros(0, dim, device=device)
        self._kept: list[Tensor] = []

    def update(self, features: Tensor, logits: Tensor | None, labels: Tensor | None, keep: Tensor) -> None:
        """Add samples by features (n, dim), logits (n, k), labels int64 (n,); `keep`, bool (n,), says whose features
        stay.
        """
        features = features.to(self.features.device)
        self.moments.update(features)
        if self.classes is not None and logits is not None:
            predicted = self.classes.update(logits)
            if labels is not None:
                self.recognised += (predicted == labels.to(predicted)).sum()
        self._kept.append(features[keep.to(features.device)])

    def all_reduce(self, collective: Collective, reference: Tensor | None, with_features: bool) -> None:
        """Replace this rank's sums by those of all ranks: one all-reduce, and one gather of the features if they are
        needed.
        """
        parts = [self.moments.pack(reference), self.recognised[None]] + (
            [self.classes.pack()] if self.classes is not None else []
        )
        packed = torch.split(collective.all_reduce_sum(torch.cat(parts)), [len(part) for part in parts])
        self.moments, self.recognised = Moments.unpack(packed[0], reference), packed[1][0]
        self.classes = ClassStatistics.unpack(packed[2]) if self.classes is not None else None
        if with_features:
            self.features = collective.all_gather_rows(torch.cat([self.features, *self._kept]))
        self._kept = []

    def dump(self) -> bytes:
        """As the bytes of an .npz file."""
        arrays = {
            "mean": self.moments.mean,
            "centred": self.moments.pack(self.moments.mean),
            "recognised": self.recognised,
        }
        arrays |= {"features": self.features} | ({} if self.classes is None else {"classes": self.classes.pack()})
        buffer = io.BytesIO()
        np.savez(buffer, **{key: value.cpu().numpy() for key, value in arrays.items()})  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def load(cls, dumped: bytes, dim: int, n_classes: int | None, device: torch.device) -> Accumulator:
        """Sums from what `dump` gave. ValueError, KeyError or zip errors where it is damaged (zip has checksums)."""
        sums = cls(dim, n_classes, device)
        with np.load(io.BytesIO(dumped), allow_pickle=False) as data:
            arrays = {key: torch.from_numpy(data[key]).to(device) for key in data.files}
        sums.moments, sums.recognised = Moments.unpack(arrays["centred"], arrays["mean"]), arrays["recognised"]
        sums.features = arrays["features"]
        if n_classes is not None:
            sums.classes = ClassStatistics.unpack(arrays["classes"])
        return sums


class Reference:
    """The real side's sums, with what every measurement of a run needs of them computed once, when first asked for."""

    def __init__(self, sums: Accumulator) -> None:
        self.moments, self.classes, self.features = sums.moments, sums.classes, sums.features
        self.recognised = sums.recognised
        self._once: dict[str, object] = {}

    def once(self, name: str, compute: Callable[[], Value]) -> Value:
        """The value of `compute`, a function of the real side alone, kept under a name."""
        if name not in self._once:
            self._once[name] = compute()
        return self._once[name]  # type: ignore[return-value]

    @property
    def floor_fid(self) -> float:
        """FID between two random halves of the features."""
        return self.once("floor fid", self._floor_fid)

    def _floor_fid(self) -> float:
        order = torch.randperm(len(self.features), generator=torch.Generator().manual_seed(0)).to(self.features.device)
        a, b = (
            Moments(self.moments.dim, self.features.device).update(self.features[half])
            for half in order.tensor_split(2)
        )
        return frechet_distance(a, b)
