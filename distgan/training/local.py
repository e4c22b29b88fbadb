"""Training without Ray: this process alone, or one rank of torchrun. The same loop, checkpoints and files."""

from __future__ import annotations

import os
from typing import Any

from distgan.config import ConfigError, WorkerRange
from distgan.training.prepare import Prepared
from distgan.training.progress import ProgressLine, final_words


def run(prepared: Prepared) -> int:
    """Train in this process; returns the exit status."""
    import torch
    import torch.distributed as dist

    from distgan.training.context import Context, default_device
    from distgan.training.loop import train

    config, torchrun = prepared.config, "RANK" in os.environ and "WORLD_SIZE" in os.environ
    wanted = config.workers.max if isinstance(config.workers, WorkerRange) else config.workers
    processes = int(os.environ["WORLD_SIZE"]) if torchrun else 1
    if wanted not in ("auto", processes):
        raise ConfigError(
            f"workers = {wanted}: engine = 'local' runs in {processes} process(es) here; allowed: auto or {processes}, engine = 'ray', "
            f"or `torchrun --nproc-per-node {wanted} -m distgan train --engine local ...`"
        )
    device = default_device()
    if torchrun:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    else:
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    context = Context(device)
    line = ProgressLine(prepared.images) if context.is_main else None
    try:
        status: dict[str, Any] = train(config, context, prepared.folder, on_tick=line.update if line else None)
    finally:
        if line:
            line.close()
        if torchrun:
            dist.destroy_process_group()
    if context.is_main:
        print(final_words(prepared, status))
    return 0 if status["state"] == "complete" else 130
