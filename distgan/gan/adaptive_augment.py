"""ADA's controller: how much augmentation keeps D from overfitting (Karras et al., 2020, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor


def adapt_p(p: Tensor, sign_stat: Tensor, target: float, batch: int, ramp_kimg: float) -> Tensor:
    """The next p: up where D is too sure of real images, sign_stat > target, else down (ADA, section 3.1).

    sign_stat: mean sign of the real logits, of all workers, since the last call; batch: real images since then; p can
    go from 0 to 1 in ramp_kimg thousand images. Returns a scalar tensor in [0, 1]; nothing is read back from the
    device.
    """
    return (p + torch.sign(sign_stat - target) * (batch / (ramp_kimg * 1000))).clamp(0, 1)
