"""A run in this process: alone, or one rank of torchrun. The same loop, checkpoints and files as on a cluster."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from distgan.config import ConfigError, RunConfig, WorkerRange
from distgan.runs.lease import Lease
from distgan.runs.prepare import Prepared
from distgan.runs.progress import ProgressLine, final_words
from distgan.training.threads import available_cpus, keep_memory, share_cores
from distgan.training.torchrun import is_torchrun, rank, world_size

if TYPE_CHECKING:
    from distgan.training.context import Context

Loop = Callable[["Context"], dict[str, Any]]
"""The training loop of one run; returns its last status."""


def run(prepared: Prepared, launch: Callable[[RunConfig, Loop], dict[str, Any]] | None = None) -> int:
    """Train here and show the progress; returns the exit status.

    launch: makes this process's context and calls the loop with it; without one, plain torch.distributed does
    (`launch_plain`). Ray's local mode is another (orchestration/train.py).
    """
    share_cores()
    keep_memory()
    from distgan.training.loop import train

    config, main = prepared.config, rank() == 0
    line = ProgressLine(f"{prepared.images}; {_where(config)}", notes=prepared.notes) if main else None
    contexts: list[Context] = []

    def loop(context: Context) -> dict[str, Any]:
        contexts.append(context)
        if main:
            lease.confirm()
        if line is None:
            return train(config, context, prepared.folder)
        return train(config, context, prepared.folder, on_tick=line.update, tell=line.tell)

    lease = Lease(prepared.folder, on_lost=lambda: contexts[0].request_stop() if contexts else None, confirm_later=True)
    try:
        with lease if main else nullcontext():
            status = (launch or launch_plain)(config, loop)
    finally:
        if line is not None:
            line.close()
    if main:
        print(final_words(prepared, status))
    return 0 if status["state"] == "complete" else 130


def launch_plain(config: RunConfig, loop: Loop) -> dict[str, Any]:
    """The loop in this process, or in torchrun's process group, with nothing but PyTorch."""
    import torch
    import torch.distributed as dist

    from distgan.training.context import Context, default_device

    device = default_device()
    if not is_torchrun():
        torch.set_num_threads(threads_here(config))
        return loop(Context(device))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        return loop(Context(device))
    finally:
        end_process_group()


def end_process_group() -> None:
    """Replicas lie in cycles and hold the group, whose threads must end before the interpreter does: one that drops a
    tensor while that shuts down ends the process by SIGABRT, after all was done (one run of twelve on a busy machine,
    torch 2.14).
    """
    import torch.distributed as dist

    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()


def threads_here(config: RunConfig) -> int:
    """Threads of a process that trains alone on this machine."""
    return config.ray.cpus_per_worker or available_cpus()


def check_workers(config: RunConfig) -> None:
    """Raise ConfigError if more or fewer workers are asked for than there are processes here."""
    wanted = config.workers.max if isinstance(config.workers, WorkerRange) else config.workers
    processes = world_size()
    if wanted not in ("auto", processes):
        raise ConfigError(
            f"workers = {wanted}: engine = 'local' runs in {processes} process(es) here; allowed: auto or {processes}, "
            f"engine = 'ray', or `torchrun --nproc-per-node {wanted} -m distgan train --engine local ...`"
        )


def _where(config: RunConfig) -> str:
    if world_size() > 1:
        return f"{world_size()} workers of torchrun"
    threads = threads_here(config)
    return f"1 worker with {threads} CPU{'s' if threads > 1 else ''}"
