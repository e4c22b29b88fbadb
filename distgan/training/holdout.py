"""Generation and classification in one: how well D's auxiliary classifier names the classes of images it was never
shown.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from distgan.config import RunConfig
from distgan.kinds.image import ImageSet
from distgan.randomness import stream_key
from distgan.training.context import Context


class HeldOut:
    """The images that are kept out of training; none unless model.conditioning = auxiliary.

    `index` int64 (M,) of them, the same for a seed and a set whatever the run does; `rest` is all others, or None = the
    whole set.
    """

    def __init__(self, config: RunConfig, images: ImageSet) -> None:
        self.images, self.rest = images, None
        wanted = (
            config.metrics.holdout if config.model.conditioning == "auxiliary" and images.labels is not None else 0.0
        )
        count = min(images.n - 1, math.ceil(wanted * images.n))
        generator = torch.Generator().manual_seed(stream_key(config.seed, "held out") & (2**63 - 1))
        order = torch.randperm(images.n, generator=generator) if count else torch.empty(0, dtype=torch.int64)
        self.index = order[:count].sort().values
        if count:
            self.rest = order[count:].sort().values

    @torch.inference_mode()
    def accuracy(self, D: nn.Module, context: Context, batch_size: int) -> dict[str, float]:
        """{"aux_accuracy_held_out": share of held-out images named right}, {} if none are held out. All workers call it
        together.
        """
        if not len(self.index):
            return {}
        assert self.images.labels is not None
        right = torch.zeros((), dtype=torch.float64)
        training = D.training
        D.eval()
        for part in torch.split(self.index.tensor_split(context.world_size)[context.rank], batch_size):
            if len(part):
                x = pixels(self.images, part, context.device)
                c = torch.from_numpy(self.images.labels[part.numpy()]).to(context.device)
                right += (D(x, c)[1].argmax(1) == c).sum().cpu()
        D.train(training)
        total = context.all_reduce_sum(right.to(context.device if context.device.type != "mps" else "cpu"))
        return {"aux_accuracy_held_out": float(total) / len(self.index)}


def pixels(images: ImageSet, index: Tensor, device: torch.device) -> Tensor:
    """Images as a discriminator sees them, float32 (n, C, H, W) in [-1, 1]."""
    return torch.from_numpy(np.asarray(images.images[index.numpy()])).to(device).float().mul_(2 / 255).sub_(1)
