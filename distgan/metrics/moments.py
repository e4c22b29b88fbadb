"""Mean and covariance of features as mergeable sums, and the Fréchet distance between two of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distgan.metrics.collective import Collective


class Moments:
    """Count, mean and scatter matrix of feature vectors, in float64, updated batch by batch.

    n: number of vectors. mean: (d,). scatter: (d, d), the sum of (x - mean)(x - mean)^T. Batches and other Moments are
    merged by Chan, Golub and LeVeque's pairwise formula (Updating formulae and a pairwise algorithm for computing
    sample variances, 1979, eq. 2.1), which doesn't cancel when the mean is large beside the spread.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.n = 0
        self.mean = torch.zeros(dim, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    @property
    def dim(self) -> int:
        """Length d of a feature vector."""
        return len(self.mean)

    @property
    def cov(self) -> Tensor:
        """Unbiased covariance, (d, d). ValueError with fewer than two vectors."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 feature vectors, got {self.n}")
        return self.scatter / (self.n - 1)

    def update(self, features: Tensor) -> Moments:
        """Add features (n, d) of any float dtype; returns itself."""
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(f"features have shape {tuple(features.shape)}, expected (n, {self.dim})")
        if len(features):
            x = features.to(self.mean.device, torch.float64)
            mean = x.mean(0)
            self._add(len(x), mean, (x - mean).T @ (x - mean))
        return self

    def merge(self, other: Moments) -> Moments:
        """Add the vectors behind other moments; returns itself."""
        if other.n:
            self._add(other.n, other.mean.to(self.mean.device), other.scatter.to(self.mean.device))
        return self

    def _add(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        total, delta = self.n + n, mean - self.mean
        self.mean = self.mean + delta * (n / total)
        self.scatter = self.scatter + scatter + torch.outer(delta, delta) * (self.n * n / total)
        self.n = total

    def pack(self, reference: Tensor | None = None) -> Tensor:
        """float64 (1 + d + d^2,): count, sum and outer products' sum of the vectors less `reference` (d,). Packs of
        ranks just add up.

        The reference must be the same on all ranks; one near the mean keeps all digits (default: zero).
        """
        delta = self.mean if reference is None else self.mean - reference.to(self.mean)
        outer = self.scatter + self.n * torch.outer(delta, delta)
        return torch.cat([self.mean.new_tensor([self.n]), self.n * delta, outer.flatten()])

    @classmethod
    def unpack(cls, packed: Tensor, reference: Tensor | None = None) -> Moments:
        """The moments behind a pack or a sum of packs with the same reference."""
        dim = round((len(packed) - 0.75) ** 0.5 - 0.5)  # d^2 + d + 1 = len
        moments = cls(dim, packed.device)
        moments.n = round(float(packed[0]))
        if moments.n:
            delta = packed[1 : 1 + dim] / moments.n
            moments.mean = delta if reference is None else delta + reference.to(delta)
            moments.scatter = packed[1 + dim :].view(dim, dim) - moments.n * torch.outer(delta, delta)
        return moments

    def all_reduce(self, collective: Collective, reference: Tensor | None = None) -> Moments:
        """The moments over the vectors of all ranks, whatever each one's count, by one all-reduce of `pack`."""
        return self.unpack(collective.all_reduce_sum(self.pack(reference)), reference)

    def save(self, file: str | Path) -> None:
        """Write n, mean and scatter as .npz."""
        np.savez(file, n=self.n, mean=self.mean.cpu().numpy(), scatter=self.scatter.cpu().numpy())

    @classmethod
    def load(cls, file: str | Path) -> Moments:
        """Moments written by `save`."""
        with np.load(file, allow_pickle=False) as data:
            moments = cls(len(data["mean"]))
            moments.n, moments.mean, moments.scatter = (
                int(data["n"]),
                torch.from_numpy(data["mean"]),
                torch.from_numpy(data["scatter"]),
            )
        return moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), Heusel et al., GANs trained by a two time-scale update rule,
    2017, eq. 6.

    The trace of the root is the sum of the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2), which is symmetric and
    positive semi-definite, so that no complex root of a general matrix is needed and singular covariances are no
    special case. NaN where either holds a non-finite number.
    """
    if a.dim != b.dim:
        raise ValueError(f"features have {a.dim} and {b.dim} dimensions; both sides need the same extractor")
    cov_a, cov_b = a.cov, b.cov.to(a.mean.device)
    difference = a.mean - b.mean.to(a.mean.device)
    if not bool(torch.isfinite(difference).all() & torch.isfinite(cov_a).all() & torch.isfinite(cov_b).all()):
        return float("nan")
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    middle = root @ cov_b @ root
    overlap = torch.linalg.eigvalsh((middle + middle.T) / 2).clamp(min=0).sqrt().sum()
    return float((difference.square().sum() + cov_a.trace() + cov_b.trace() - 2 * overlap).clamp(min=0))
