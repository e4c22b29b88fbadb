"""What a classifier says about a set of samples: how many of each class, how far from the data's classes, Inception
Score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distgan.metrics.collective import Collective


class ClassStatistics:
    """Sums over samples of a classifier's probabilities, mergeable by addition.

    histogram: (k,) samples by most probable class. probability: (k,) sum of p. information: () sum of sum_c
    p_c log p_c. All float64.
    """

    def __init__(self, classes: int, device: torch.device | str = "cpu") -> None:
        self.histogram = torch.zeros(classes, dtype=torch.float64, device=device)
        self.probability = torch.zeros_like(self.histogram)
        self.information = torch.zeros((), dtype=torch.float64, device=device)

    def update(self, logits: Tensor) -> Tensor:
        """Add samples by their logits (n, k); returns their most probable classes, int64 (n,)."""
        log_p = logits.to(self.histogram.device, torch.float64).log_softmax(1)
        p = log_p.exp()
        predicted: Tensor = log_p.argmax(1)
        self.histogram += torch.bincount(predicted, minlength=len(self.histogram))
        self.probability += p.sum(0)
        self.information += (p * log_p).sum()
        return predicted

    def pack(self) -> Tensor:
        """float64 (2 k + 1,); packs of ranks just add up."""
        return torch.cat([self.histogram, self.probability, self.information[None]])

    @classmethod
    def unpack(cls, packed: Tensor) -> ClassStatistics:
        """The statistics behind a pack or a sum of packs."""
        classes = (len(packed) - 1) // 2
        out = cls(classes, packed.device)
        out.histogram, out.probability, out.information = packed[:classes], packed[classes:-1], packed[-1]
        return out

    def all_reduce(self, collective: Collective) -> ClassStatistics:
        """The statistics over the samples of all ranks."""
        return self.unpack(collective.all_reduce_sum(self.pack()))

    @property
    def modes(self) -> int:
        """Number of classes that at least one image is assigned to (Metz et al., Unrolled GANs, 2017, section
        3.3.1).
        """
        return int((self.histogram > 0).sum())

    @property
    def inception_score(self) -> float:
        """exp of the mean KL(p(c|x) || p(c)) (Salimans et al., Improved techniques for training GANs, 2016, section 4),
        in one split.
        """
        n = self.histogram.sum()
        marginal = self.probability / n
        return float((self.information / n - torch.xlogy(marginal, marginal).sum()).exp())

    def kl(self, reference: Tensor | None = None) -> float:
        """KL(this histogram || reference counts (k,)) in nats; without a reference against equal shares.

        Half a sample is added to each class of the reference, so that a class it happens not to hold doesn't make this
        infinite.
        """
        counts = torch.ones_like(self.histogram) if reference is None else reference.to(self.histogram) + 0.5
        share = self.histogram / self.histogram.sum()
        return float((torch.xlogy(share, share) - torch.xlogy(share, counts / counts.sum())).sum())
