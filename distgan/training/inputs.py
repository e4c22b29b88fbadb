"""Random inputs of the steps to come, drawn for many steps at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MOST = 2**19
"""Numbers drawn at once: a few MiB."""
STEPS = 64


class Draws:
    """This worker's share of what is drawn for each step. One step's own draws are too few to be worth their
    operations.

    Draws are functions of the sample index, so that how many are made at once changes none of them.
    """

    def __init__(self, batch: int, start: int, stop: int, device: torch.device) -> None:
        """batch: images of a step, all workers together, of which this one sees start..stop-1."""
        self.batch, self.own = batch, torch.arange(start, stop, device=device)
        self._held: dict[str, tuple[int, Tensor]] = {}

    def __call__(self, stream: str, nimg: int, width: int, draw: Callable[[Tensor], Tensor]) -> Tensor:
        """draw(index) for the step at nimg images: index int64 (N,) to values (N, ...), `width` numbers of each."""
        first, values = self._held.get(stream, (nimg, None))
        step, rest = divmod(nimg - first, self.batch)
        if values is None or rest or not 0 <= step < len(values):
            steps = max(1, min(STEPS, MOST // (len(self.own) * width)))
            starts = nimg + self.batch * torch.arange(steps, device=self.own.device)
            drawn, step = draw((starts[:, None] + self.own).flatten()), 0
            values = drawn.view(steps, len(self.own), *drawn.shape[1:])
            self._held[stream] = (nimg, values)
        return values[step]
