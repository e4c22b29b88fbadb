"""Two processes of torch.distributed for a test: started, waited for, and ended in any case."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

DEADLINE_S = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_two(worker: Callable[..., None], caches: Path, *arguments: Any) -> None:
    """worker(rank, port, *arguments) in two spawned processes; AssertionError if they do not come to an end."""
    patch = pytest.MonkeyPatch()
    patch.setenv("DISTGAN_CACHE", str(caches / "decoded"))
    spawned = torch.multiprocessing.spawn(worker, (free_port(), *arguments), nprocs=2, join=False)
    try:
        left = DEADLINE_S
        while not spawned.join(timeout=5):
            left -= 5
            assert left > 0, "two workers did not come to an end"
    finally:
        patch.undo()
        for process in spawned.processes:
            process.kill()
