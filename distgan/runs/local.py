"""Training without Ray: this process alone, or one rank of torchrun. The same loop, checkpoints and files."""

from __future__ import annotations

import gc
import os
from contextlib import nullcontext
from typing import Any

from distgan.config import ConfigError, RunConfig, WorkerRange
from distgan.runs.lease import Lease
from distgan.runs.prepare import Prepared
from distgan.runs.progress import ProgressLine, final_words
from distgan.training.threads import available_cpus, keep_memory, share_cores


def run(prepared: Prepared) -> int:
    """Train in this process; returns the exit status."""
    share_cores()
    keep_memory()
    import torch
    import torch.distributed as dist

    from distgan.training.context import Context, default_device
    from distgan.training.loop import train

    config, torchrun = prepared.config, "RANK" in os.environ and "WORLD_SIZE" in os.environ
    device = default_device()
    if torchrun:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    else:
        torch.set_num_threads(available_cpus())
    context = Context(device)
    line = ProgressLine(prepared.images) if context.is_main else None
    lease = Lease(prepared.folder, on_lost=context.request_stop) if context.is_main else nullcontext()
    try:
        with lease:
            status: dict[str, Any] = train(config, context, prepared.folder, on_tick=line.update if line else None)
    finally:
        if line:
            line.close()
        if torchrun:
            # Replicas lie in cycles and hold the group, whose threads must end before the interpreter does: one that
            # drops a tensor while that shuts down ends the process by SIGABRT, after all was done (one run of twelve on
            # a busy machine, torch 2.14)
            gc.collect()
            dist.destroy_process_group()
    if context.is_main:
        print(final_words(prepared, status))
    return 0 if status["state"] == "complete" else 130


def check_workers(config: RunConfig) -> None:
    """Raise ConfigError if more or fewer workers are asked for than there are processes here."""
    wanted = config.workers.max if isinstance(config.workers, WorkerRange) else config.workers
    processes = int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ and "WORLD_SIZE" in os.environ else 1
    if wanted not in ("auto", processes):
        raise ConfigError(
            f"workers = {wanted}: engine = 'local' runs in {processes} process(es) here; allowed: auto or {processes}, "
            f"engine = 'ray', or `torchrun --nproc-per-node {wanted} -m distgan train --engine local ...`"
        )
