"""What a person is told of a run when it starts: how large the networks are, whether a step fits into a GPU's memory,
and, after the first seconds of training, how long the run will take.

By the clock and of this machine: it is shown and in status.json, and no line of the log.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from distgan.config import RunConfig
from distgan.text import count, duration
from distgan.training.budget import TRAINING
from distgan.training.context import Context
from distgan.training.memory import Memory, estimate
from distgan.training.state import TrainState, uses_bf16

SECONDS = 3.0
"""Of training, after which its pace is told."""
SOON_S, LONG_S = 60.0, 3600.0
"""A run that ends within the first needs no forecast; from the second on it is told what would fit."""
ROOM = 0.9
"""Share of the free GPU memory that a step should take: kernels want workspaces, and the estimate is one."""
GIB = 2**30


def introduce(
    config: RunConfig, state: TrainState, context: Context, shape: tuple[int, ...], arguments: dict[str, Any]
) -> list[str]:
    """The networks in a line and, where a step may not fit into the GPU, what to do. shape: of a sample; arguments: as
    for `TrainState`.
    """
    own = config.model.generator or config.model.discriminator
    sizes = [_millions(sum(p.numel() for p in network.parameters())) for network in (state.G, state.D)]
    step = config.batch_size * config.training.n_dis
    line = (
        f"{'own' if own else config.model.name} networks for {' x '.join(map(str, shape))}: G {sizes[0]}, D {sizes[1]} "
        f"weights; {state.config.total_images / 1000:g} kimg in steps of {step}"
    )
    if context.device.type != "cuda":
        return [line]
    memory = estimate(
        config,
        shape=shape,
        n_classes=state.n_classes,
        workers=context.world_size,
        bf16=uses_bf16(config, context.device),
        **arguments,
    )
    free = torch.cuda.mem_get_info(context.device)[0] + torch.cuda.memory_reserved(context.device)
    if memory is None:
        return [line]
    told = f"{line}; about {memory.total / GIB:.1f} of {free / GIB:.1f} GiB of GPU memory"
    return [told, *too_large(config, memory, free)]


def too_large(config: RunConfig, memory: Memory, free: float) -> list[str]:
    """A warning with what helps, where a step takes more than `free` bytes."""
    if memory.total <= free:
        return []
    needs = f"a step needs about {memory.total / GIB:.1f} GiB of GPU memory, {free / GIB:.1f} are free"
    parts = memory.accumulate_for(ROOM * free)
    fix = f"training.accumulate = {parts} computes it in parts that fit" if parts else "not even one sample fits"
    return [
        f"training.accumulate = {config.training.accumulate}: {needs}; {fix}. Smaller networks (model.g_width, "
        "model.d_width), a smaller data.resolution or more workers need less too"
    ]


class Forecast:
    """How long the run will take, told once."""

    def __init__(self, config: RunConfig, nimg: int) -> None:
        """nimg: images seen at this start."""
        self.config, self.first = config, nimg
        self._mark, self._warm, self._told = (time.monotonic(), nimg), False, False

    def __call__(self, nimg: int) -> str:
        """After each step: the forecast when it can be made, else "". The first step counts only if it takes long: it
        makes threads and memory ready.
        """
        if self._told:
            return ""
        now, (since, images) = time.monotonic(), self._mark
        if now - since < SECONDS or nimg <= images:
            if not self._warm or nimg <= images:
                self._mark, self._warm = (now, nimg), True
            return ""
        self._told = True
        return self.text(nimg, (nimg - images) / (now - since))

    def text(self, nimg: int, rate: float) -> str:
        """What follows from so many images a second."""
        config = self.config
        left = (config.total_images - nimg) / rate / TRAINING
        if left < SOON_S:
            return ""
        pace = count(round(rate), "image") if rate >= 10 else f"{rate:.2g} images"
        other, kimg = "other " if self.first else "", (config.total_images - self.first) / 1000
        text = f"{pace} a second: the {other}{kimg:g} kimg take about {duration(left)}"
        if left < LONG_S or self.first:
            return text
        text += f". An hour (--minutes 60) is about {rate * LONG_S * TRAINING / 1000:.3g} kimg"
        model = config.model
        halves = [w // 2 for w in (model.g_width, model.d_width)]
        own = model.generator or model.discriminator or "widths" in model.g_args or "widths" in model.d_args
        if not own and min(halves) >= 16:
            half = f"--model.g-width {halves[0]} --model.d-width {halves[1]}"
            text += f"; half the width ({half}) is some two times as fast"
        return text


def _millions(n: int) -> str:
    return f"{n / 1e6:.3g} million" if n >= 1e5 else f"{n:,}"
