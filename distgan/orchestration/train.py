"""Ray Train around the loop: processes, placement, failures and restarts are Ray's; the training is `training.loop`.

One worker on this machine (a laptop, one GPU, each process of torchrun) is Ray Train's local mode: `TorchTrainer` calls
the loop in this process, and there is no cluster. Several workers, and every cluster that is joined, are Ray Train's
workers. A run's folder is Ray's experiment folder too, so that reported checkpoints are those that lie there already.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from distgan.config import ConfigError, RunConfig, RunError, validate
from distgan.orchestration.cluster import Cluster, cluster
from distgan.orchestration.placement import Placement, place
from distgan.orchestration.ray_compat import forget_run_state
from distgan.registry import look_in
from distgan.runs.lease import Lease, read_lease
from distgan.runs.local import Loop, end_process_group, threads_here
from distgan.runs.local import run as run_here
from distgan.runs.prepare import Prepared
from distgan.runs.progress import ProgressLine, final_words
from distgan.storage import Folder
from distgan.text import last_line
from distgan.training.logs import read_status
from distgan.training.threads import keep_memory
from distgan.training.torchrun import drop_leftovers, is_torchrun

if TYPE_CHECKING:
    from distgan.orchestration.ray_context import RayContext

STOP = "stop-requested"
"""File in a run's folder that asks its workers for a checkpoint and a clean end."""
RESIZE_S = 20.0
"""How often an elastic run looks for more room."""


def run(prepared: Prepared) -> int:
    """Train on Ray and show the progress; returns the exit status."""
    if is_local(prepared.config):
        return run_here(prepared, launch_local_mode)
    with Lease(prepared.folder) as lease, cluster(prepared.config.ray) as found:
        placement = place(prepared.config, found.nodes)
        line = ProgressLine(f"{prepared.images}; {placement}", notes=prepared.notes)
        try:
            status = fit(prepared.config, prepared.folder, placement, line, owner=lease.owner, on=found)
        finally:
            line.close()
    if lease.lost.is_set():
        raise RunError(
            f"{prepared.folder}: another driver goes on with this run, as nothing was heard from this one; it has "
            "stopped"
        )
    print(final_words(prepared, status))
    return 0 if status["state"] == "complete" else 130


def is_local(config: RunConfig) -> bool:
    """Whether one worker in this process is what the settings ask for: no cluster, no dashboard, at most one GPU
    here.
    """
    if config.ray.address or os.environ.get("RAY_ADDRESS") or config.ray.dashboard:
        return False
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return False  # this process has a cluster already
    if is_torchrun():
        return True
    if config.workers != "auto":
        return config.workers == 1
    import torch

    return torch.cuda.device_count() <= 1 or config.ray.gpus_per_worker == 0


# ---------------------------------------------------------------------------------------------------------------------
# One worker, in this process


def launch_local_mode(config: RunConfig, loop: Loop) -> dict[str, Any]:
    """Ray Train's local mode: `TorchTrainer` calls the loop in this process; under torchrun in each of its
    processes.
    """
    import torch
    from ray.train import RunConfig as RayRunConfig
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    from distgan.orchestration.ray_context import RayContext, device_of_worker

    folder = Folder(config.storage).child(config.run_name)
    drop_leftovers()

    def train_loop_per_worker(settings: dict[str, Any]) -> dict[str, Any]:
        if not is_torchrun():
            torch.set_num_threads(threads_here(config))
        try:
            return loop(RayContext(device_of_worker(config.ray.gpus_per_worker != 0), folder, report_every_s=0))
        finally:
            if is_torchrun():
                end_process_group()

    logging.getLogger("ray.train").setLevel(logging.WARNING)  # the progress is told here
    storage, name = folder.split()
    trainer = TorchTrainer(
        train_loop_per_worker,
        train_loop_config={},
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RayRunConfig(name=name, storage_path=storage),
    )
    return dict(trainer.fit().return_value)


# ---------------------------------------------------------------------------------------------------------------------
# Workers on a cluster


def fit(
    config: RunConfig,
    folder: Folder,
    placement: Placement,
    line: ProgressLine | None = None,
    *,
    owner: str | None = None,
    on: Cluster | None = None,
) -> dict[str, Any]:
    """One run on the connected cluster, start to end; returns the loop's last status.

    Ctrl-C and SIGTERM ask the workers for a checkpoint and a clean end; the second Ctrl-C ends at once. `owner` is the
    lease under which the workers run: they stop when another driver has it. Raises ConfigError and RunError as the loop
    does, and RunError if workers failed more often than ray.max_failures, or if the private cluster is gone.
    """
    folder.remove(STOP)
    forget_run_state(folder)
    if line is not None:
        line.follow(read_status(folder))
    with _StopRequests(folder, line) as requests:
        answer = _fit(config, folder, placement, line, requests, owner, on)
    if line is not None:
        line.update(read_status(folder))
    if answer.get("refused"):
        raise ConfigError(answer["refused"])
    if answer.get("failed"):
        raise RunError(answer["failed"])
    return dict(answer["status"])


def _fit(
    config: RunConfig,
    folder: Folder,
    placement: Placement,
    line: ProgressLine | None,
    requests: _StopRequests,
    owner: str | None,
    on: Cluster | None,
) -> dict[str, Any]:
    """Ray Train's `fit`, watched; returns what rank 0 answered. Raises RunError if it failed, or if the cluster is
    gone.
    """
    from ray.train import FailureConfig, LoggingConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchTrainer

    from distgan.orchestration.ray_context import torch_config

    elastic, private = placement.fewest != placement.most, on is not None and on.private
    storage, name = folder.split()
    trainer = TorchTrainer(
        train_loop_per_worker,
        train_loop_config={
            # Without what is left at its default, so that a worker knows what was given: `kinds.settled` keeps that
            "config": config.model_dump(mode="json", exclude_unset=True),
            "folder": folder.uri,
            "cpus": placement.cpus,
            "gpus": placement.gpus,
            "owner": owner,
            "working_folder": os.getcwd(),
            "watch_preemption": not private,
        },
        torch_config=torch_config(placement.gpus, private=private),
        scaling_config=ScalingConfig(
            num_workers=(placement.fewest, placement.most) if elastic else placement.most,
            use_gpu=placement.gpus > 0,
            resources_per_worker=placement.resources,
            **({"elastic_resize_monitor_interval_s": RESIZE_S} if elastic else {}),
        ),
        run_config=RayRunConfig(
            name=name,
            storage_path=storage,
            # A group that cannot start counts like a group that failed: one number for both
            failure_config=FailureConfig(
                max_failures=config.ray.max_failures, controller_failure_limit=config.ray.max_failures
            ),
            # OpenMP reads it when a worker imports torch, which is before it runs anything of ours
            worker_runtime_env=None if private else {"env_vars": {"GOMP_SPINCOUNT": "10000"}},
            logging_config=LoggingConfig("CRITICAL" if private else "INFO"),  # here it would talk in this terminal
        ),
    )
    # In a thread, where Ray installs no signal handler of its own (which would end the workers without a checkpoint).
    outcome: dict[str, Any] = {}
    thread = threading.Thread(target=_call, args=(trainer.fit, outcome), name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.3)
        if line is not None:
            line.update(read_status(folder))
        requests.act()
        _check(on)
    if "error" in outcome:
        _check(on)  # then that is the reason
        raise _readable(outcome["error"]) from None
    return dict(outcome["result"].return_value)


def _check(on: Cluster | None) -> None:
    """RunError if the private cluster is gone."""
    gone = on.lost_process() if on is not None else None
    if gone:
        raise RunError(
            f"Ray's {gone} on this machine has ended (killed, or out of memory), and the workers with it\n"
            "The same command goes on from the last checkpoint"
        )


def train_loop_per_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """What Ray Train runs in every worker process, when their process group is formed."""
    keep_memory()
    import ray.train
    import torch

    from distgan.orchestration.prometheus import run_gauges
    from distgan.orchestration.ray_context import REPORT_S, RayContext, device_of_worker
    from distgan.training.loop import train

    look_in(settings["working_folder"])
    config, folder = validate(settings["config"]), Folder(settings["folder"])
    torch.set_num_threads(settings["cpus"])
    rank, size = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    context = RayContext(
        device_of_worker(settings["gpus"] > 0),
        folder,
        report_every_s=REPORT_S + config.ray.poll_s,
        watch_preemption=settings["watch_preemption"],
        gauges=run_gauges(config.run_name, total_kimg=config.kimg, rank=rank, workers=size),
    )
    if context.is_main:
        threading.Thread(target=_watch, args=(folder, context, settings["owner"]), daemon=True).start()
    try:
        return {"status": train(config, context, folder)}
    except ConfigError as error:  # on all workers alike; trying again would give the same
        return {"refused": str(error)}
    except RunError as error:
        return {"failed": str(error)}


def _watch(folder: Folder, context: RayContext, owner: str | None) -> None:
    """Rank 0 looks in storage, the one place that driver and workers reach in every set-up, for the driver's request to
    stop, and for another driver's lease.
    """
    looks = 0
    while True:
        time.sleep(0.5 if folder.is_local else 3)
        looks += 1
        try:
            if folder.exists(STOP) or (owner and looks % 10 == 0 and read_lease(folder).get("owner", owner) != owner):
                context.request_stop()
                return
        except OSError:
            continue


class _StopRequests:
    """Signals to the driver: the first asks the workers to stop, through storage; a second Ctrl-C gives up waiting."""

    def __init__(self, folder: Folder, line: ProgressLine | None) -> None:
        self.folder, self.line = folder, line
        self.count, self.told = 0, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _StopRequests:
        if threading.current_thread() is threading.main_thread():
            from distgan.training.context import STOP_SIGNALS

            for number in STOP_SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup asks for that
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        self.count += 1
        if self.count > 1 and number == signal.SIGINT:
            raise KeyboardInterrupt

    def act(self) -> None:
        if self.count and not self.told:
            try:
                self.folder.write(STOP, b"")
            except OSError:  # storage is away: asked again in a moment
                return
            self.told = True
            if self.line is not None:
                self.line.note("stopping: a checkpoint is written first (Ctrl-C again ends at once, from the last one)")


def _call(action: Any, outcome: dict[str, Any]) -> None:
    try:
        outcome["result"] = action()
    except BaseException as error:
        outcome["error"] = error


def _readable(error: BaseException) -> RunError:
    """Ray's errors carry long traces of its own; the person needs the worker's."""
    if isinstance(error, RunError):
        return error
    failures = getattr(error, "worker_failures", None) or {}
    lines = [f"worker {rank}: {type(e).__name__}: {last_line(str(e))}" for rank, e in sorted(failures.items())]
    what = "the workers failed and were restarted as often as ray.max_failures allows"
    if not lines:  # Ray Train's controller, which forms the process group and starts the workers
        what, lines = "the workers could not be started", [f"{type(error).__name__}: {last_line(str(error))}"]
    return RunError("\n".join([what, *lines, "The same command goes on from the last checkpoint"]))
