"""What the training loop knows of its fellow workers: a rank, collectives, and someone to report to.

`Context` works in one process alone and in any torch.distributed process group (torchrun's, or Ray Train's). Ray's
context (orchestration/train.py) is this one with reports to Ray Train and Ray's notice of preemption. The loop knows no
more.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from distgan.config import ConfigError
from distgan.training.torchrun import local_rank

T = TypeVar("T")

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)
"""Signals that ask a run to end with a checkpoint."""


SLOW_S = 1.0
"""Where a step takes longer on any worker, all look for requests at every step."""


class Requests(NamedTuple):
    """What somebody outside asks of the run, and whether to ask again at the next step; the same on all ranks."""

    stop: bool
    """Write a checkpoint and end."""
    checkpoint: bool
    """Write a checkpoint and go on: a node will be taken away."""
    slow: bool = False
    """Some worker's last step took more than SLOW_S."""


class Context:
    """Rank, world size, device and collectives of one worker. Every collective must be called by all ranks."""

    def __init__(
        self, device: torch.device | None = None, on_report: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        """on_report: gets the metrics of each measurement and checkpoint, on every rank."""
        grouped = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if grouped else 0
        self.world_size = dist.get_world_size() if grouped else 1
        self.device = device or default_device()
        self._on_report = on_report
        self._stop = threading.Event()

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

    def report(self, metrics: dict[str, Any], *, checkpoint: str | None = None, last: bool = False) -> None:
        """Tell whoever started the run; called by all ranks equally often.

        checkpoint: on rank 0 the newest checkpoint's folder in the run's folder, if one is in storage. last: the run
        ends.
        """
        if self._on_report is not None:
            self._on_report(metrics)

    # A wish to stop (a signal, say) reaches one process at a time; `requests` turns it into one decision of all ranks.
    def request_stop(self) -> None:
        self._stop.set()

    @property
    def stop_requested(self) -> bool:
        """Whether this rank alone has been asked to stop."""
        return self._stop.is_set()

    def requests(self, step_s: float = 0.0) -> Requests:
        """What was asked for since this was called last, on any rank. All ranks call it together.

        step_s: how long this rank's last step took.
        """
        (stop, checkpoint), slow = self._asked(), step_s > SLOW_S
        if self.world_size > 1:
            asked = torch.tensor([float(stop), float(checkpoint), float(slow)], device=self.device)
            stop, checkpoint, slow = (bool(value) for value in self.all_reduce_sum(asked) > 0)
        return self._decide(stop, checkpoint)._replace(slow=slow)

    def _asked(self) -> tuple[bool, bool]:
        """(stop, checkpoint) as this rank alone knows."""
        return self.stop_requested, False

    def _decide(self, stop: bool, checkpoint: bool) -> Requests:
        """From what any rank knows, known to all, to a decision."""
        return Requests(stop, checkpoint)

    @contextmanager
    def stop_on_signals(self) -> Iterator[None]:
        """SIGTERM, Ctrl-C, a closed terminal (SIGHUP) and SLURM's warning (SIGUSR1) ask for a clean end with a
        checkpoint; a second Ctrl-C ends at once.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # What is ignored stays so: nohup asks for that, and a shell does for what it starts in the background
        before = {s: handler for s in STOP_SIGNALS if (handler := signal.getsignal(s)) is not signal.SIG_IGN}

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
        return torch.device("cuda", local_rank() % torch.cuda.device_count())
    return torch.device("cpu")


def share(total: int, rank: int, world_size: int) -> tuple[int, int]:
    """Start and stop of a rank's part of `total` items; parts differ by one item at most."""
    return total * rank // world_size, total * (rank + 1) // world_size
