"""What runs on every node for `distgan doctor`: a Ray actor that tells what is there, and tries what training needs."""

from __future__ import annotations

import os
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distgan.orchestration.network import free_port, interface_of, rendezvous_store
from distgan.storage import Folder

ANSWER_S = 60.0
"""Time that a node has for an answer."""


class Examiner:
    """Runs on one node. Its methods import what they need, so that a node without it can say so."""

    def facts(self) -> dict[str, Any]:
        """Versions, devices, and what there is of scarce things (bytes, files)."""
        import platform
        import resource
        import socket

        import ray
        import torch

        import distgan

        address = ray.util.get_node_ip_address()
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return {
            "host": socket.gethostname(),
            "address": address,
            "interface": interface_of(address),
            "distgan": distgan.__version__,
            "python": platform.python_version(),
            "ray": version("ray"),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "gpus": gpus,
            "shm_free": _free("/dev/shm"),
            "disk_free": _free("/tmp"),
            "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        }

    def clock(self) -> float:
        """This node's Unix time."""
        return time.time()

    def write(self, uri: str, name: str, size: int) -> float:
        """Seconds for writing a file of so many bytes."""
        start = time.perf_counter()
        Folder(uri).write(name, os.urandom(size))
        return time.perf_counter() - start

    def read(self, uri: str, names: list[str]) -> tuple[list[str], float]:
        """(names that are not there, longest time for a file that is, in seconds)."""
        folder, missing, spans = Folder(uri), [], [0.0]
        for name in names:
            start = time.perf_counter()
            try:
                folder.read(name)
                spans.append(time.perf_counter() - start)
            except FileNotFoundError:
                missing.append(name)
        return missing, max(spans)

    def rendezvous(self) -> tuple[str, int]:
        """Address and port where the others can join this process."""
        import ray

        return ray.util.get_node_ip_address(), free_port()

    def all_reduce(self, rendezvous: tuple[str, int], rank: int, size: int, backend: str, mib: float) -> float:
        """Seconds for the sum of a float32 tensor over all workers, the median of five."""
        from datetime import timedelta

        import ray
        import torch
        import torch.distributed as dist

        interface = interface_of(ray.util.get_node_ip_address())
        if interface:
            for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
                os.environ.setdefault(variable, interface)
        torch.set_num_threads(1)
        device = torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")
        timeout = timedelta(seconds=ANSWER_S / 2)
        store = rendezvous_store(*rendezvous, rank, size, timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        try:
            tensor = torch.zeros(max(1, round(mib * 2**18)), device=device)
            spans = []
            for _ in range(6):  # the first makes connections
                dist.barrier()
                start = time.perf_counter()
                dist.all_reduce(tensor)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                spans.append(time.perf_counter() - start)
            return statistics.median(spans[1:])
        finally:
            dist.destroy_process_group()


def _free(path: str) -> int:
    if not Path(path).exists():
        return 0
    stats = os.statvfs(path)
    return stats.f_bavail * stats.f_frsize
