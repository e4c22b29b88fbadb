"""Samples that D is never shown: how well its auxiliary classifier names their classes, and whether it has learnt the
others by heart.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from distgan.config import RunConfig
from distgan.kinds import Kind, SampleSet
from distgan.randomness import stream_key
from distgan.training.context import Context


class HeldOut:
    """The samples that are kept out of training; none unless model.conditioning = auxiliary, or augmentation is steered
    (augment.target).

    `index` int64 (M,) of them, the same for a seed and a set whatever the run does; `rest` is all others, or None = the
    whole set.
    """

    def __init__(self, config: RunConfig, samples: SampleSet, kind: Kind) -> None:
        self.config, self.samples, self.kind, self.rest = config, samples, kind, None
        named = config.model.conditioning == "auxiliary" and samples.labels is not None
        steered = config.augment.kind != "none" and config.augment.target is not None
        wanted = config.data.holdout if named or steered else 0.0
        count = min(len(samples) - 1, math.ceil(wanted * len(samples)))
        generator = torch.Generator().manual_seed(stream_key(config.seed, "held out") & (2**63 - 1))
        order = torch.randperm(len(samples), generator=generator) if count else torch.empty(0, dtype=torch.int64)
        self.index = order[:count].sort().values
        if count:
            self.rest = order[count:].sort().values

    @torch.inference_mode()
    def accuracy(self, D: nn.Module, context: Context, batch_size: int) -> dict[str, float]:
        """{"aux_accuracy_held_out": share of held-out samples named right}, {} if none are held out. All workers call
        it together.
        """
        if not len(self.index) or self.config.model.conditioning != "auxiliary" or self.samples.labels is None:
            return {}
        right = torch.zeros((), dtype=torch.float64)
        training = D.training
        D.eval()
        for part in torch.split(self.index.tensor_split(context.world_size)[context.rank], batch_size):
            if len(part):
                x = encoded(self.samples, self.kind, part, context.device)
                c = torch.from_numpy(self.samples.labels[part.numpy()]).to(context.device)
                right += (D(x, c)[1].argmax(1) == c).sum().cpu()
        D.train(training)
        total = context.all_reduce_sum(right.to(context.device if context.device.type != "mps" else "cpu"))
        return {"aux_accuracy_held_out": float(total) / len(self.index)}


def encoded(samples: SampleSet, kind: Kind, index: Tensor, device: torch.device) -> Tensor:
    """Samples by index int64 (n,) as a discriminator sees them, float32 (n, *spec.shape)."""
    return kind.encode(torch.from_numpy(np.asarray(samples.samples[index.numpy()])).to(device))
