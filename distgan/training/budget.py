"""A budget in minutes: how many images this machine trains in the time, found by some real steps before the first one.

What was found is plan.json in the run's folder: a resumed run has the same budget, and so the same schedules, on
whatever machine it goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from distgan.config import RunConfig, dump_config
from distgan.storage import Folder
from distgan.text import count

if TYPE_CHECKING:
    from distgan.training.context import Context
    from distgan.training.train_step import TrainStep

PLAN = "plan.json"
TRAINING = 0.88
"""Share of the time that is spent on steps; the rest is start, pictures, measurements and the last export."""
WARM_UP, SECONDS = 3, 4.0
"""Steps that are not timed (threads and memory come up), and how long the others are."""


def read_rate(folder: Folder) -> float | None:
    """Images a second that the run was planned with; None without a plan."""
    try:
        return float(json.loads(folder.read(PLAN))["images_per_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def with_budget(config: RunConfig, images_per_s: float) -> RunConfig:
    """The same run with `kimg` as many as go into `minutes`, at least a step; unchanged where minutes are not set."""
    if config.minutes is None:
        return config
    step = config.batch_size * config.training.n_dis
    kimg = max(step / 1000, round(images_per_s * config.minutes * 60 * TRAINING / 1000, 1))
    return config.model_copy(update={"kimg": kimg})


def plan(
    config: RunConfig, context: Context, folder: Folder, make_step: Callable[[], TrainStep]
) -> tuple[RunConfig, str]:
    """The run with its budget in images, and in words how it was found ("" where there was nothing to find).

    make_step: a training step on networks that are thrown away. All workers call this together.
    """
    if config.minutes is None:
        return config, ""
    rate: float | None = context.broadcast(read_rate(folder) if context.is_main else None)
    text = ""
    if rate is None:
        rate = context.broadcast(_measure(context, make_step()))
        text = f"{count(round(rate), 'image')} a second here: {config.minutes:g} minutes are"
    config = with_budget(config, rate)
    if context.is_main and text:
        text = f"{text} {config.kimg:g} kimg"
        folder.write(PLAN, json.dumps({"images_per_s": rate, "minutes": config.minutes, "kimg": config.kimg}).encode())
        folder.write("config.yaml", dump_config(config.model_copy(update={"name": folder.split()[1]})))
    return config, text


def _measure(context: Context, step: TrainStep) -> float:
    """Images a second, of all workers together."""
    import torch

    for _ in range(WARM_UP):
        step()
    steps, elapsed = 1, 0.0
    while elapsed < SECONDS:
        started = time.perf_counter()
        for _ in range(steps):
            step()
        if context.device.type == "cuda":
            torch.cuda.synchronize(context.device)
        elapsed, measured = context.broadcast(time.perf_counter() - started), steps
        steps = max(steps + 1, min(4 * steps, round(1.2 * steps * SECONDS / max(elapsed, 1e-6))))
    return step.samples * measured / elapsed
