"""A worker of Ray Train, as the training loop knows it: `training.context.Context` with reports to Ray and its
notices.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.torch import TorchConfig

from distgan.orchestration.network import interface_of
from distgan.storage import Folder
from distgan.training.context import Context, Requests

REPORT_S = 2.0
"""Least time between two reports. Ray takes one report a poll and lets the training wait for that: a run whose
checkpoints are a third of a second apart lost a third of its speed to it.
"""
PREEMPTION_S = 2.0
"""How often workers ask Ray whether their node will be taken away."""


class RayContext(Context):
    """A worker in Ray Train's process group, or in Ray Train's local mode."""

    def __init__(
        self,
        device: torch.device,
        folder: Folder,
        *,
        report_every_s: float,
        watch_preemption: bool = False,
        gauges: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """folder: the run's. report_every_s: what comes in between goes into the next report. watch_preemption: ask
        Ray, on clusters whose nodes may be taken away. gauges: gets the metrics of each report, for Prometheus.
        """
        super().__init__(device)
        self.folder, self.report_every_s, self.gauges = folder, report_every_s, gauges
        self._unreported: dict[str, Any] = {}
        self._reported_at = self._asked_at = float("-inf")
        self._watches, self._noticed = watch_preemption, False

    def report(self, metrics: dict[str, Any], *, checkpoint: str | None = None, last: bool = False) -> None:
        """Metrics to Ray Train: to its Result, its page, and Tune; with the last ones the checkpoint that the run ends
        in, which lies in storage already. Earlier ones are pruned as the run goes on, and a Result that named one would
        be refused by Ray as corrupted.
        """
        if self.gauges is not None:
            self.gauges(metrics)
        self._unreported |= metrics
        due = time.monotonic() - self._reported_at >= self.report_every_s
        if self.report_every_s and not last and not self.broadcast(due):
            return
        metrics, self._unreported, self._reported_at = self._unreported, {}, time.monotonic()
        saved = Checkpoint(self.folder.child(checkpoint).uri) if checkpoint and last and self.is_main else None
        ray.train.report(metrics, checkpoint=saved, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)

    def _asked(self) -> tuple[bool, bool]:
        """The second says that it is time to ask Ray for a notice, which all workers must do together."""
        due = self._watches and self.is_main and time.monotonic() - self._asked_at >= PREEMPTION_S
        return super()._asked()[0], due

    def _decide(self, stop: bool, checkpoint: bool) -> Requests:
        if not checkpoint:
            return Requests(stop, False)
        self._asked_at = time.monotonic()
        noticed = ray.train.get_preemption_info() is not None
        first, self._noticed = noticed and not self._noticed, noticed
        return Requests(stop, first)


def device_of_worker(on_gpu: bool) -> torch.device:
    """The GPU that Ray (or torchrun) gave this worker, if it is to have one and there is one; else the CPU."""
    return torch.device(ray.train.torch.get_device() if on_gpu else "cpu")


def torch_config(gpus: float, *, private: bool) -> TorchConfig:
    """Ray's TorchConfig for workers with so many GPUs each. NCCL takes a GPU for one process only; gloo is for those
    that share one.
    """
    timeout_s = int(float(os.environ.get("DISTGAN_COLLECTIVE_TIMEOUT_S", "600")))
    backend = "nccl" if gpus >= 1 else "gloo"
    return (TorchConfig if private else NodeInterface)(backend=backend, timeout_s=timeout_s)


class NodeInterface(TorchConfig):  # type: ignore[misc]
    """TorchConfig whose workers talk over the network interface that has their node's address in Ray. Left to itself
    gloo takes the one that the host's name resolves to, which on many hosts is loopback.
    """

    @property
    def backend_cls(self) -> Any:
        class Backend(TorchConfig().backend_cls):  # type: ignore[misc]
            def on_start(self, worker_group: Any, backend_config: Any) -> None:
                worker_group.execute(choose_interface)
                super().on_start(worker_group, backend_config)

        return Backend


def choose_interface() -> None:
    """Name the interface to gloo and NCCL, unless somebody has."""
    interface = interface_of(ray.util.get_node_ip_address())
    if interface:
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, interface)
