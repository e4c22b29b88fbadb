"""Fidelity and diversity apart: precision and recall, density and coverage, from nearest-neighbour balls around
features.

Kynkäänniemi, Karras, Laine, Lehtinen, Aila: Improved precision and recall metric for assessing generative models, 2019,
eq. 1-2. Naeem, Oh, Uh, Choi, Yoo: Reliable fidelity and diversity metrics for generative models, 2020, eq. 4-5.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def radii(x: Tensor, k: int, chunk: int = 2048) -> Tensor:
    """Squared distance of each row of (n, d) to its k-th nearest other row, float64 (n,). ValueError where n <= k."""
    if len(x) <= k:
        raise ValueError(f"the {k}th nearest neighbour needs more than {k} samples, got {len(x)}")
    out = []
    for start, squared in _squared_distances(x, x, chunk):
        row = torch.arange(len(squared), device=x.device)
        squared[row, row + start] = -1.0  # a row's distance to itself: always the smallest, whatever rounding says
        out.append(squared.kthvalue(k + 1, dim=1).values)
    return torch.cat(out)


def precision_recall(
    generated: Tensor, real: Tensor, k: int = 3, real_radii: Tensor | None = None
) -> tuple[float, float]:
    """Share of generated (n, d) features within the k-th neighbour's distance of some real one (m, d), and the other
    way round.

    real_radii: radii(real, k), where they are known already.
    """
    real_reach = radii(real, k) if real_radii is None else real_radii
    generated_reach = radii(generated, k)
    inside = torch.zeros(len(generated), dtype=torch.bool, device=real.device)
    recalled = 0.0
    for start, squared in _squared_distances(real, generated):
        inside |= (squared <= real_reach[start : start + len(squared), None]).any(0)
        recalled += float((squared <= generated_reach).any(1).sum())
    return float(inside.double().mean()), recalled / len(real)


def density_coverage(
    generated: Tensor, real: Tensor, k: int = 5, real_radii: Tensor | None = None
) -> tuple[float, float]:
    """Mean number, over k, of real features whose k-th neighbour ball holds a generated one; share of real balls that
    hold any.

    generated: (n, d), real: (m, d). real_radii: radii(real, k), where they are known already.
    """
    reach = radii(real, k) if real_radii is None else real_radii
    within, covered = 0.0, 0.0
    for start, squared in _squared_distances(real, generated):
        inside = squared < reach[start : start + len(squared), None]
        within += float(inside.sum())
        covered += float(inside.any(1).sum())
    return within / (k * len(generated)), covered / len(real)


def _squared_distances(x: Tensor, y: Tensor, chunk: int = 2048) -> Iterator[tuple[int, Tensor]]:
    """(first row, squared distances float64 (rows, m)) for chunks of the rows of x against all of y."""
    y = y.double()
    length = y.square().sum(1)
    for start in range(0, len(x), chunk):
        rows = x[start : start + chunk].double()
        yield start, torch.addmm(length, rows, y.T, alpha=-2).add_(rows.square().sum(1)[:, None]).clamp_(min=0)
