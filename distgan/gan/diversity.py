"""How much generated samples differ from each other, seen beside the data: the earliest sign of mode collapse."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def diversity(x_fake: Tensor, c_fake: Tensor | None, x_real: Tensor, c_real: Tensor | None) -> Tensor:
    """The standard deviation of generated numbers over that of real ones, a scalar tensor: 1 is right, 0 is one sample
    for all.

    x_fake, x_real: (N, ...). c_fake, c_real: int64 (N,), or None. With labels it is the deviation within the
    classes, so that a generator with a single sample for each class is seen too. 1 where the real samples leave nothing
    to compare with (of each class one, or all alike).
    """
    with torch.autocast(x_real.device.type, enabled=False):
        real, fake = _variance(x_real, c_real), _variance(x_fake, c_fake)
    return torch.where((real > 0) & fake.isfinite(), (fake / real.clamp(min=1e-12)).sqrt(), torch.ones_like(real))


def _variance(x: Tensor, c: Tensor | None) -> Tensor:
    """The mean of each number's variance over samples, within classes; 0 where no two samples share a class."""
    flat = x.float().flatten(1)
    if c is None:
        c = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    same = (c[:, None] == c[None, :]).float()  # (N, N): no host has to know how many classes there are
    sizes = same.sum(1)
    rest = flat - same @ flat / sizes[:, None]
    freedom = len(x) - (1 / sizes).sum().round()  # samples less classes
    variance: Tensor = rest.square().sum(0).mean() / freedom.clamp(min=1)
    return torch.where(freedom > 0, variance, torch.zeros_like(variance))
