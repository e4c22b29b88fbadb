"""How much memory a worker's step takes, known before it is made: both networks' passes on PyTorch's meta device, where
tensors have sizes and no numbers.

    weights        both networks, their gradients, Adam's two averages, the averages of G
    activations    what autograd keeps of a part of the batch until its backward pass: in proportion to its samples
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from distgan.config import RunConfig
from distgan.gan.step import d_step_loss, frozen, g_step_loss
from distgan.models import build_discriminator, build_generator
from distgan.training.context import share

SAMPLES = 2, 4
"""Two sizes of a part: the activations of one sample are the difference. Batch norm wants two."""
LIVE = 1.25
"""What lives beside what autograd keeps, as a factor. On CPUs estimates were 0.9 to 1.2 of the peaks of whole steps, of
dcgan, resnet and r3gan at 32 and 64 pixels (`tests/training/test_memory.py`), and some 30 MiB less where all is small.
"""
HALF = 0.55
"""Activations under bf16 autocast beside float32: half, and what stays in float32. Computed, not measured."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker."""

    weights: int
    per_sample: int
    part: int
    """Samples that are computed at once."""
    share: int
    """Samples of the worker's share of a batch, which training.accumulate divides into parts."""

    @property
    def total(self) -> int:
        return self.weights + self.per_sample * self.part

    def accumulate_for(self, free: float) -> int | None:
        """The training.accumulate with which a step takes at most `free` bytes; None where even one sample does not
        fit.
        """
        fit = int((free - self.weights) // max(1, self.per_sample))
        return math.ceil(self.share / min(fit, self.share)) if fit >= 1 else None


def estimate(
    config: RunConfig, *, shape: tuple[int, ...], n_classes: int, workers: int = 1, bf16: bool = False, **arguments: Any
) -> Memory | None:
    """The memory of a worker's step on samples of `shape`; None where a network cannot be built on the meta device (one
    of the user's may do what needs numbers).

    n_classes, arguments: as for `TrainState`. Kernels' workspaces (cuDNN's can be hundreds of MiB), CUDA itself and the
    data set are not in it.
    """
    share_of_batch = share(config.batch_size, 0, workers)[1]
    part = math.ceil(share_of_batch / config.training.accumulate)
    size = {"n_classes": n_classes, **arguments}
    try:
        with torch.device("meta"):
            G, D = build_generator(config.model, **size), build_discriminator(config.model, **size)
            kept = [_kept(config, G, D, shape, n_classes, n) for n in SAMPLES]
    except Exception:  # whatever a network does with tensors that have no numbers
        return None
    per_sample = max(0, kept[1] - kept[0]) / (SAMPLES[1] - SAMPLES[0])
    averages = len(config.training.ema_half_life_kimg)
    weights = (4 + averages) * _bytes(G) + 4 * _bytes(D)
    return Memory(weights, round(per_sample * LIVE * (HALF if bf16 else 1)), part, share_of_batch)


def _bytes(network: nn.Module) -> int:
    return sum(t.nbytes for t in (*network.parameters(), *network.buffers()))


def _kept(config: RunConfig, G: nn.Module, D: nn.Module, shape: tuple[int, ...], n_classes: int, n: int) -> int:
    """Bytes that autograd keeps in a step on n samples, at most; the networks' own weights do not count."""
    x, z = torch.zeros(n, *shape), torch.zeros(n, config.model.latent_dim)
    c = torch.zeros(n, dtype=torch.int64) if n_classes else None
    alpha = torch.zeros(n) if config.loss.gp_lambda else None
    own = {id(t.untyped_storage()) for m in (G, D) for t in (*m.parameters(), *m.buffers())}

    def reusing(z: Tensor, c: Tensor | None = None) -> Tensor:
        with torch.enable_grad():  # G learns from these samples too: their graph stays
            samples: Tensor = G(z, c)
            return samples

    makes = reusing if config.training.reuses_fakes else G
    first = _saved(lambda: d_step_loss(makes, D, x, c, z, c, config.loss, alpha=alpha), own)
    with frozen(D):
        return max(first, _saved(lambda: g_step_loss(G, D, x, c, z, c, config.loss), own))


def _saved(step: Callable[[], Any], own: set[int]) -> int:
    """Bytes of the different storages that autograd keeps for the backward pass of a step's loss."""
    held: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[id(storage)] = storage  # kept alive, so that no other gets its number
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(storage.nbytes() for key, storage in held.items() if key not in own)
