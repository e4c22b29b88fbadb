"""A blow-up: D loses what it knew within a few hundred steps, and G with it. Every number stays finite.

A mean of D's loss over a thousand samples says it: above about twice the loss of a D that says the same of all samples,
after the first thousand. On 24 short runs on photographs and icons this marked all nine that blew up, and no other. The
run then goes back to a checkpoint of before, with half the learning rates and new noise; README and CHANGELOG have the
measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from distgan.config import RunConfig
from distgan.registry import LOSSES
from distgan.training.context import Context
from distgan.training.state import TrainState
from distgan.training.train_step import TrainStep

WINDOW = 1000
"""Samples over which D's loss is averaged."""
ABOVE_DRAW = 2.2
"""How many times the loss of a D that says the same of all samples is a blow-up."""
SLOWEST = 1 / 16
"""Share of the learning rates below which the run is left alone."""


def regular_checkpoints(config: RunConfig) -> Callable[[int], bool]:
    """Whether a count of images is one at which every run writes a checkpoint, however it was interrupted, far enough
    from the next such that of two of them the older lies before a blow-up that is seen now.
    """
    every, step = config.checkpoint.every_kimg * 1000, config.batch_size * config.training.n_dis
    apart = every * math.ceil(3 * WINDOW / every)
    return lambda nimg: nimg == 0 or math.floor(nimg / apart) > math.floor((nimg - step) / apart)


class Watchdog:
    """Looks for blow-ups. What it has seen of a window is `state.window`, so that a resumed run judges what an
    uninterrupted one judges.
    """

    def __init__(self, config: RunConfig, context: Context, state: TrainState, step: TrainStep) -> None:
        self.context, self.state = context, state
        self._step, self.share_weight = step.samples, step.inputs.share_weight
        zero = torch.zeros(1)
        self.limit = ABOVE_DRAW * float(LOSSES[config.loss.name].d(zero, zero))
        # A critic's loss (Wasserstein) has no scale
        self.active = config.training.on_blow_up == "rollback" and self.limit > 0
        # In float64 the sum of a window's float32 losses is exact, and so the same wherever it was cut by a stop
        self._sum = torch.zeros((), dtype=torch.float64, device=context.device)
        self._steps = 0

    def blown_up(self, stats: Mapping[str, Tensor] | None, *, read: bool) -> bool:
        """Take in a step's statistics; True where a window ends that was a blow-up. All workers call it together and
        hear the same.

        stats: None where no step was made. read: this is a moment at which a checkpoint may be written.
        """
        state = self.state
        if not self.active or state.rate_factor <= SLOWEST:
            return False
        ends = stats is not None and state.nimg // WINDOW > (state.nimg - self._step) // WINDOW
        if stats is not None:
            self._sum += stats["d_loss"]
            self._steps += 1
        if not (ends or read):
            return False
        total = float(self.context.all_reduce_sum(self._sum * self.share_weight)) / self.context.world_size
        state.window = [state.window[0] + total, state.window[1] + self._steps]
        self.forget()
        if not ends:
            return False
        mean, state.window = state.window[0] / state.window[1], [0.0, 0.0]
        return mean > self.limit and state.nimg - self._step >= WINDOW

    def forget(self) -> None:
        """What was seen since `state.window` was written: the run goes on from another state."""
        self._sum, self._steps = torch.zeros_like(self._sum), 0
