"""Kernel distance between two sets of features (KID), unbiased at every sample size.

Binkowski, Sutherland, Arbel, Gretton: Demystifying MMD GANs, 2018: squared maximum mean discrepancy (eq. 4) with the
kernel k(x, y) = (x.y / d + 1)^3.
"""

from __future__ import annotations

import torch
from torch import Tensor

SUBSET_SIZE = 1000


def kernel_sum(x: Tensor, y: Tensor | None = None, chunk: int = 2048) -> Tensor:
    """Sum of k(x_i, y_j) over all pairs of rows of (n, d) and (m, d); without y over the pairs i != j of x. Scalar
    float64.
    """
    other = x if y is None else y
    total = x.new_zeros((), dtype=torch.float64)
    columns = other.double()
    for rows in torch.split(x, chunk):
        rows = rows.double()
        base = torch.addmm(rows.new_ones(()), rows, columns.T, alpha=1 / x.shape[1])
        total += (base * base).flatten() @ base.flatten()
        if y is None:
            total -= (rows.square().sum(1) / x.shape[1] + 1).pow(3).sum()
    return total


def kernel_distance(generated: Tensor, real: Tensor, real_sum: Tensor | None = None) -> float:
    """Unbiased squared MMD between (n, d) and (m, d) features, over all pairs; may be slightly below zero.

    real_sum: kernel_sum(real), where it is known already. ValueError with fewer than two rows on a side.
    """
    n, m = len(generated), len(real)
    if min(n, m) < 2:
        raise ValueError(f"KID needs at least 2 samples on each side, got {n} generated and {m} real")
    within = kernel_sum(generated) / (n * (n - 1)) + (kernel_sum(real) if real_sum is None else real_sum) / (
        m * (m - 1)
    )
    return float(within - 2 * kernel_sum(generated, real) / (n * m))


def kernel_distance_subsets(
    generated: Tensor, real: Tensor, subsets: int = 100, size: int = SUBSET_SIZE
) -> tuple[float, float]:
    """Mean and standard deviation of the squared MMD between `subsets` pairs of random subsets of `size` rows (fewer if
    there are fewer).

    The subsets are the same in every call with the same counts.
    """
    size = min(size, len(generated), len(real))
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(subsets):
        pick = (
            torch.randperm(len(generated), generator=generator)[:size],
            torch.randperm(len(real), generator=generator)[:size],
        )
        values.append(kernel_distance(generated[pick[0].to(generated.device)], real[pick[1].to(real.device)]))
    spread = torch.tensor(values, dtype=torch.float64)
    return float(spread.mean()), float(spread.std(correction=0))
