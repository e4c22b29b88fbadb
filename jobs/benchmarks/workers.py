"""Groups of worker processes that stay: started once, they train a window when they are told to, and sleep otherwise.

So several contenders, each with its own number of workers and threads, can take turns within seconds, and what else the
machine does meets all alike. Commands and answers are lines of JSON on stdin and stdout; a worker is `python -m
benchmarks.workers SETTINGS`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.parts import Parts, build_parts, open_data, settle


class Group:
    """`workers` processes of `threads` threads that train `config` together, or (`joined` false) each for itself."""

    def __init__(
        self,
        config: dict[str, Any],
        workers: int,
        threads: int,
        *,
        joined: bool = True,
        env: dict[str, str] | None = None,
    ) -> None:
        self.workers, self.threads, self.joined = workers, threads, joined
        self._place = tempfile.TemporaryDirectory(prefix="distgan-benchmark-")
        place = Path(self._place.name)
        here = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(Path(__file__).parent.parent), **(env or {})}
        self._processes: list[subprocess.Popen[str]] = []
        self._errors = [place / f"stderr-{rank}" for rank in range(workers)]
        for rank in range(workers):
            settings = {
                "config": config,
                "rank": rank if joined else 0,
                "workers": workers if joined else 1,
                "threads": threads,
                "meeting": f"file://{place}/meeting",
                "folder": str(place / "run"),
            }
            with open(self._errors[rank], "w", encoding="utf-8") as errors:
                process = subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.workers", json.dumps(settings)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env={**os.environ, **here},
                )
            self._processes.append(process)

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.stdin:
                process.stdin.close()  # a worker ends when there is nothing more to read
        for process in self._processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()
        self._place.cleanup()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def ask(self, command: str, timeout_s: float = 300, **settings: Any) -> list[dict[str, Any]]:
        """All workers' answers to one command, by rank. SystemExit with a worker's words if one fails or takes too
        long.
        """
        for process in self._processes:
            assert process.stdin
            try:
                process.stdin.write(json.dumps({"do": command, **settings}) + "\n")
                process.stdin.flush()
            except BrokenPipeError:
                pass  # it has ended; why is read below
        late = threading.Timer(timeout_s, self._kill)
        late.start()
        try:
            answers = []
            for process, errors in zip(self._processes, self._errors, strict=True):
                assert process.stdout
                line = process.stdout.readline()
                if not line:
                    self._kill()  # the others wait for it
                    raise SystemExit(
                        f"a worker ended in `{command}`, or took more than {timeout_s:g} "
                        f"s:\n{errors.read_text(encoding='utf-8')[-3000:]}"
                    )
                answers.append(json.loads(line))
            return answers
        finally:
            late.cancel()

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()


# ---------------------------------------------------------------------------------------------------------------------
# In the worker's process


class Worker:
    """Answers a group's commands. What trains is built from the loop's own parts."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from distgan.config import validate

        self.settings, self.config = settings, validate(settings["config"])
        self.parts: Parts | None = None

    def start(self) -> dict[str, Any]:
        """Import what a worker needs, and meet the others."""
        import torch
        import torch.distributed as dist

        import distgan.training.loop  # noqa: F401 - the imports are the point
        from distgan.orchestration.network import interface_of
        from distgan.training.context import Context

        torch.set_num_threads(self.settings["threads"])
        if self.settings["workers"] > 1:
            interface = interface_of("127.0.0.1")
            if interface:
                os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            kind = "nccl" if torch.cuda.is_available() else "gloo"
            rank, size = self.settings["rank"], self.settings["workers"]
            os.environ.setdefault("LOCAL_RANK", str(rank))
            dist.init_process_group(kind, init_method=self.settings["meeting"], rank=rank, world_size=size)
        self.context = Context()
        return {}

    def open(self) -> dict[str, Any]:
        """Open the data."""
        self.config, self.images, self.feed = open_data(self.config, self.context)
        return {
            "bytes": int(self.images.samples.nbytes),
            "file": str(getattr(_base(self.images.samples), "filename", "") or ""),
        }

    def read_all(self) -> dict[str, Any]:
        """Look at every image once, through batches as the loop takes them."""
        for start in range(0, len(self.images), 64):
            self.feed.batch(start, min(start + 64, len(self.images)))
        return {}

    def build(self) -> dict[str, Any]:
        """Build nets, optimisers and the step."""
        self.parts = build_parts(self.config, self.context, self.images, self.feed)
        return {"gradients": {"d": gradient_bytes(self.parts.state.D), "g": gradient_bytes(self.parts.state.G)}}

    def train(self, steps: int) -> dict[str, Any]:
        """So many steps, all workers from the same moment on; wall and processor time."""
        parts, device = self._built(), self.context.device
        self.context.barrier()
        start, cpu, images = time.perf_counter(), time.process_time(), parts.state.nimg
        for _ in range(steps):
            parts.step()
        settle(device)
        self.context.barrier()
        return {
            "seconds": time.perf_counter() - start,
            "cpu_s": time.process_time() - cpu,
            "images": parts.state.nimg - images,
            "steps": steps,
        }

    def all_reduce(self, sizes: Sequence[int], repeats: int) -> dict[str, Any]:
        """Median seconds of an all-reduce of so many bytes of float32, for each size."""
        import torch
        import torch.distributed as dist

        found = {}
        for size in sizes:
            tensor = torch.zeros(max(1, size // 4), device=self.context.device)
            times = []
            for _ in range(repeats + 2):
                self.context.barrier()
                start = time.perf_counter()
                dist.all_reduce(tensor)
                settle(self.context.device)
                times.append(time.perf_counter() - start)
            found[str(size)] = statistics.median(times[2:])  # the first ones connect and fault memory in
        return {"seconds": found}

    def memory(self, reset: bool = False) -> dict[str, Any]:
        """This process's memory now, and its highest since the last reset."""
        from benchmarks.memory import footprint, reset_peak

        found = footprint(os.getpid())
        if reset:
            reset_peak()
        return found

    def mapped(self, file: str) -> dict[str, Any]:
        """What of a file's pages is in this process."""
        from benchmarks.memory import mapping

        return mapping(os.getpid(), file)

    def save(self) -> dict[str, Any]:
        """One checkpoint, as rank 0 of the loop writes it, with the memory sampled meanwhile."""
        from benchmarks.memory import Watch
        from distgan.storage import Folder
        from distgan.training.checkpoint import CheckpointStore

        parts = self._built()
        with Watch(os.getpid()) as watch:
            if self.context.is_main:
                store = CheckpointStore(Folder(self.settings["folder"]))
                store.save(parts.state.nimg, parts.state.state_dict())
                for _ in range(4):  # it is written while training goes on
                    parts.step() if self.context.world_size == 1 else time.sleep(0.02)
                store.wait()
            self.context.barrier()
        return watch.highest

    def _built(self) -> Parts:
        if self.parts is None:
            raise RuntimeError("`build` comes before this command")
        return self.parts


def gradient_bytes(network: Any) -> list[int]:
    """The messages in which DistributedDataParallel sends a network's gradients: bytes of each bucket."""
    import torch.distributed as dist

    trained = [p for p in network.parameters() if p.requires_grad][::-1]  # gradients come last layer first
    first, cap = dist._DEFAULT_FIRST_BUCKET_BYTES, 25 * 2**20
    buckets, _ = dist._compute_bucket_assignment_by_size(trained, [first, cap])
    return [sum(trained[i].numel() * trained[i].element_size() for i in bucket) for bucket in buckets]


def _base(array: Any) -> Any:
    """The array that holds the memory: views of a memory map keep it as their base."""
    while getattr(array, "base", None) is not None and not getattr(array, "filename", None):
        array = array.base
    return array


def main() -> None:
    from distgan.training.threads import keep_memory, share_cores

    share_cores()
    keep_memory()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    worker = Worker(json.loads(sys.argv[1]))
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(worker, command.pop("do"))(**command)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
