"""Steps that take long: while one lasts the run tells that it is alive, and a stop does not wait for its end.

A step of large networks, or of a large batch on a CPU, takes a minute and more. Wherever such a step comes past Python
(a module is called, a gradient comes back through its output), somebody looks at the clock, and whether a stop was
asked for. A stop leaves the step, and the state is that of the step's beginning again, as if it had never begun: the
checkpoint is one that an uninterrupted run comes past, and nothing is lost but the time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distgan.config import RunError
from distgan.text import first_line
from distgan.training.checkpoint import to_host
from distgan.training.context import Context
from distgan.training.player import Stats
from distgan.training.state import TrainState
from distgan.training.train_step import TrainStep

LONG_S = 5.0
"""A step after one of so many seconds can be left. A copy of the state before it costs a second at most, and a person
waits for a shorter one.
"""


class LongSteps:
    """The training step, as the loop calls it.

    With several workers a step is not left: they exchange gradients in it, and all would have to leave at the same
    place. Nor is one of CUDA graphs, which does not come past Python and is short.
    """

    def __init__(
        self, step: TrainStep, state: TrainState, context: Context, alive: Callable[[int, float], None]
    ) -> None:
        """alive: called again and again while a long step lasts, with the images seen at its beginning and the seconds
        since then.
        """
        self.step, self.state, self.context, self.alive = step, state, context, alive
        self.seconds = math.inf
        """How long the last step took; unknown, which may be long, before the first one."""

    def __call__(self, *, with_norms: bool = False) -> Stats | None:
        """One step; None where a stop was asked for in the middle of it, and the state is that of before."""
        started, nimg = time.monotonic(), self.state.nimg
        if self.seconds < LONG_S or self.step.graphs:
            stats = self._step(with_norms)
        else:
            before = to_host(self.state.state_dict()) if self.context.world_size == 1 else None

            def look() -> None:
                if before is not None and self.context.stop_requested:
                    raise _LeaveError
                self.alive(nimg, time.monotonic() - started)

            try:
                with _looking(look, self.state.G, self.state.D):
                    stats = self._step(with_norms)
            except _LeaveError:
                assert before is not None
                self.state.load_state_dict(before)
                return None
        self.seconds = time.monotonic() - started
        return stats

    def _step(self, with_norms: bool) -> Stats:
        try:
            return self.step(with_norms=with_norms)
        except torch.OutOfMemoryError as error:
            now = self.step.config.training.accumulate
            text = f"training.accumulate = {now}: the GPU's memory is too small for a step; training.accumulate = "
            text += f"{2 * now} computes it in parts of half the size, in a new run ({first_line(error)})"
            if self.context.world_size == 1:
                raise RunError(text) from error
            raise torch.OutOfMemoryError(text) from error  # Ray ends the others, which wait for this one


class _LeaveError(BaseException):
    """Leaves a step. No Exception, so that a network which catches those does not catch it."""


@contextmanager
def _looking(look: Callable[[], None], *networks: nn.Module) -> Iterator[None]:
    """Inside, `look` is called before and after every call of a module, and when a gradient arrives at what it gave."""

    def before(module: nn.Module, inputs: Any) -> None:
        look()

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        look()
        for value in output if isinstance(output, tuple) else (output,):
            if isinstance(value, Tensor) and value.requires_grad:
                value.register_hook(arrived)  # type: ignore[no-untyped-call]

    def arrived(gradient: Tensor) -> None:
        look()
        if gradient.requires_grad:  # a penalty differentiates it once more, through other operations
            gradient.register_hook(arrived)  # type: ignore[no-untyped-call]

    modules = [module for network in networks for module in network.modules()]
    hooks = [module.register_forward_pre_hook(before) for module in modules]
    hooks += [module.register_forward_hook(after) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
