"""What the training loop knows of its fellow workers: a rank, collectives, and someone to report to.

`Context` works in one process alone and in any torch.distributed process group (torchrun's, or the one that Ray's
adapter sets up). The adapter adds `on_report`. The loop knows no more than this.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from distgan.config import ConfigError

T = TypeVar("T")


class Context:
    """Rank, world size, device and collectives of one worker. Every collective must be called by all ranks."""

    def __init__(
        self,
        device: torch.device | None = None,
        on_report: Callable[[dict[str, Any]], None] | None = None,
        *,
        report_every_s: float = 0.0,
    ) -> None:
        grouped = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if grouped else 0
        self.world_size = dist.get_world_size() if grouped else 1
        self.device = device or default_device()
        self._on_report, self._report_every_s = on_report, report_every_s
        self._unreported: dict[str, Any] = {}
        self._reported_at = 0.0
        self._stop, self._checkpoint = threading.Event(), threading.Event()

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def leave(self) -> None:
        """The last call: wait for all, and for gloo's threads to let go of what they were given.

        A thread of gloo's that drops a tensor while the interpreter shuts down ends the process by SIGABRT, after all
        was done (seen with torch 2.14). A barrier holds no tensor of Python's, and waits without the interpreter's
        lock.
        """
        self.barrier()

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value (a small picklable object) on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device if self.device.type == "cuda" else None)
        return box[0]

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place; the tensor must have the same shape everywhere."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_gather_rows(self, tensor: Tensor) -> Tensor:
        """Rows of all ranks in rank order; ranks may have different numbers of rows."""
        if self.world_size == 1:
            return tensor
        counts = torch.zeros(self.world_size, dtype=torch.int64, device=self.device)
        counts[self.rank] = tensor.shape[0]
        rows: list[int] = self.all_reduce_sum(counts).tolist()
        padded = tensor.new_zeros((max(rows), *tensor.shape[1:]))
        padded[: tensor.shape[0]] = tensor
        parts = [torch.empty_like(padded) for _ in rows]
        dist.all_gather(parts, padded.contiguous())
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])

    def together(self, action: Callable[[], T]) -> T:
        """`action` on every rank. If it fails on one with a ConfigError, all ranks raise it, so that none waits for the
        others.
        """
        result, problem = None, None
        try:
            result = action()
        except ConfigError as error:
            problem = str(error)
        if self.world_size > 1:
            problems: list[str | None] = [None] * self.world_size
            dist.all_gather_object(problems, problem)
            problem = next((p for p in problems if p), None)
        if problem:
            raise ConfigError(problem)
        return cast("T", result)

    def report(self, metrics: dict[str, Any], *, last: bool = False) -> None:
        """Tell whoever started the run; called by all ranks equally often.

        Where reports are to keep `report_every_s` apart, what comes in between goes into the next one, newer figures
        over older. The last one always goes.
        """
        if self._on_report is None:
            return
        self._unreported |= metrics
        if (
            self._report_every_s
            and not last
            and not self.broadcast(time.monotonic() - self._reported_at >= self._report_every_s)
        ):
            return
        metrics, self._unreported, self._reported_at = self._unreported, {}, time.monotonic()
        self._on_report(metrics)

    # A wish to stop (a signal, say) reaches one process at a time; `stop_agreed` turns it into one decision of all
    # ranks.
    def request_stop(self) -> None:
        self._stop.set()

    def stop_agreed(self) -> bool:
        if self.world_size == 1:
            return self._stop.is_set()
        return bool(self.all_reduce_sum(torch.tensor([float(self._stop.is_set())], device=self.device)).item() > 0)

    # Rank 0 alone writes, so a checkpoint out of turn (this node will be taken away soon) needs no agreement.
    def request_checkpoint(self) -> None:
        self._checkpoint.set()

    def checkpoint_wanted(self) -> bool:
        """Whether one was asked for since this was called last."""
        wanted = self._checkpoint.is_set()
        self._checkpoint.clear()
        return wanted

    @contextmanager
    def stop_on_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C ask for a clean end with a checkpoint; a second Ctrl-C ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}

        def handle(number: int, frame: Any) -> None:
            if self._stop.is_set() and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.request_stop()

        for number in before:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def default_device() -> torch.device:
    """This process's GPU if there is one (LOCAL_RANK tells which), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device("cpu")


def share(total: int, rank: int, world_size: int) -> tuple[int, int]:
    """Start and stop of a rank's part of `total` items; parts differ by one item at most."""
    return total * rank // world_size, total * (rank + 1) // world_size
