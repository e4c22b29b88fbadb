"""How many workers, and what each reserves: decided from the cluster's nodes before anything is asked of Ray.

Ray waits for ever for resources that do not exist, so what cannot be had is refused here.
"""

from __future__ import annotations

from dataclasses import dataclass

from distgan.config import ConfigError, RunConfig, WorkerRange
from distgan.text import count


@dataclass(frozen=True)
class Placement:
    """Workers (fewest, most) and the resources of one."""

    fewest: int
    most: int
    cpus: int
    gpus: float

    @property
    def resources(self) -> dict[str, float]:
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})

    def __str__(self) -> str:
        workers = count(self.most, "worker")
        workers = workers if self.fewest == self.most else f"{self.fewest} to {workers}"
        each = f"{self.gpus:g} GPU and " if self.gpus else ""
        return f"{workers} with {each}{count(self.cpus, 'CPU')} each"


def place(config: RunConfig, nodes: list[dict[str, float]]) -> Placement:
    """The placement on these nodes (resources by Ray's names: CPU, GPU).

    `workers: auto` is one worker a GPU; without GPUs, one worker a node with all its CPUs: one process with several
    threads trains at least as fast as several processes that must exchange gradients. Raises ConfigError for what
    cannot be had.
    """
    gpus = config.ray.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0.0
    if config.training.cuda_graphs == "on" and not gpus:
        raise ConfigError(
            "training.cuda_graphs = 'on': needs a GPU, and the workers have none; allowed here: auto, off"
        )
    able = [node for node in nodes if node.get("CPU", 0) >= 1 and node.get("GPU", 0) >= gpus]
    if not able:
        largest = max((node.get("GPU", 0) for node in nodes), default=0)
        raise ConfigError(
            f"ray.gpus_per_worker = {gpus:g}: no node of the cluster has that and a CPU; allowed: 0 to {largest:g}"
        )

    if config.workers == "auto":
        per_node = [int(node["GPU"] // gpus) if gpus else 1 for node in able]
        most = max(n for n in range(1, sum(per_node) + 1) if config.batch_size % n == 0)
        fewest = most
    elif isinstance(config.workers, WorkerRange):
        fewest, most = config.workers.min, config.workers.max
    else:
        fewest = most = config.workers

    cpus = config.ray.cpus_per_worker or _cpus(able, most, gpus)
    fit = sum(_fit(node, cpus, gpus) for node in able)
    if fit < fewest:
        each = count(cpus, "CPU") + (f" and {gpus:g} GPU" if gpus else "")
        have = (
            f"{sum(n.get('CPU', 0) for n in nodes):g} CPUs and {sum(n.get('GPU', 0) for n in nodes):g} GPUs on "
            f"{count(len(nodes), 'node')}"
        )
        if not fit:
            largest = max(int(node.get("CPU", 0)) for node in able)
            raise ConfigError(
                f"ray.cpus_per_worker = {cpus}: no node has room for a worker of {each} (there are {have}); allowed: 1 "
                f"to {largest}"
            )
        raise ConfigError(
            f"workers = {fewest}: there are {have}, room for {count(fit, 'worker')} of {each}; allowed: auto, or 1 to "
            f"{fit}"
        )
    return Placement(fewest, most, cpus, gpus)


def _fit(node: dict[str, float], cpus: int, gpus: float) -> int:
    by_cpu = int(node.get("CPU", 0) // cpus)
    return min(by_cpu, int(node.get("GPU", 0) / gpus + 1e-6)) if gpus else by_cpu


def _cpus(nodes: list[dict[str, float]], workers: int, gpus: float) -> int:
    """The most CPUs a worker can have so that all still fit."""
    largest = int(max(node["CPU"] for node in nodes))
    return next((cpus for cpus in range(largest, 0, -1) if sum(_fit(node, cpus, gpus) for node in nodes) >= workers), 1)
