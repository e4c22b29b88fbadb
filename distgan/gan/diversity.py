"""How much samples differ from each other: beside the data's, the earliest sign of mode collapse."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def diversity(x: Tensor, c: Tensor | None) -> Tensor:
    """The standard deviation of samples (N, ...), over all their numbers, a scalar tensor.

    c: int64 (N,), or None. With labels it is the deviation within the classes, so that one sample for each class is
    none. 0 where no two samples share a class.
    """
    rest, freedom = _within(x, c)
    deviation: Tensor = (rest.square().sum(0).mean() / freedom.clamp(min=1)).sqrt()
    return deviation


@torch.no_grad()
def main_directions(x: Tensor, c: Tensor | None, k: int) -> Tensor:
    """The k directions, or fewer, in which samples (N, ...) differ most within their classes: (numbers, k)."""
    rest, _ = _within(x, c)
    values, vectors = torch.linalg.eigh((rest @ rest.T).cpu().double())  # (N, N): a sample may have many more numbers
    kept = (values > 1e-6 * values[-1].clamp(min=1e-12)).nonzero()[:, 0][-k:]
    directions: Tensor = rest.T @ (vectors[:, kept] / values[kept].sqrt()).to(rest)
    return directions


def _within(x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
    """Samples less the mean of their class (N, numbers), and how many of them are free: samples less classes."""
    flat = x.float().flatten(1)
    if c is None:
        c = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    same = (c[:, None] == c[None, :]).float()
    sizes = same.sum(1)
    return flat - same @ flat / sizes[:, None], len(x) - (1 / sizes).sum().round()
