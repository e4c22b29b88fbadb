"""Ray Train around the loop: processes, placement, failures and restarts are Ray's; the training is `training.loop`.

What differs from Ray's TorchTrainer, and why. Ray Train V2's DataParallelTrainer, its base class, is used with a
process group that the workers set up themselves: (1) the driver and Ray's controller need not import torch, which makes
the start seconds faster; (2) a group that cannot be formed is a worker's failure, which Ray retries, and not a
controller's, which it does not. Checkpoints are the loop's own, in the run's folder: Ray registers a reported
checkpoint only when its controller has polled all workers, and a truncated file of its book-keeping makes a run
impossible to resume. On a private cluster the controller is no actor, but runs in the driver (`lean.controller_here`).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from distgan.config import ConfigError, RunConfig, RunError, validate
from distgan.orchestration.cluster import cluster, is_private, lost_process
from distgan.orchestration.lean import answer_slowly, controller_here, use_started_processes
from distgan.orchestration.placement import Placement, place
from distgan.runs.lease import Lease, read_lease
from distgan.runs.prepare import Prepared
from distgan.runs.progress import ProgressLine, final_words
from distgan.storage import Folder
from distgan.training.logs import read_status
from distgan.training.threads import keep_memory, share_cores

STOP = "stop-requested"
RAYS_OWN = "ray"
"""Folder in the run's folder in which Ray keeps its books; nothing that a run needs is there."""
REPORT_S = 2.0
"""Ray takes one report a poll and lets the training wait for that: a run whose checkpoints are a third of a second
apart lost a third of its speed to it.
"""
ANSWER_S = 5.0
"""How long a worker that is alone lets Ray's question how it is going wait."""
RESIZE_S = 20.0
"""How often an elastic run looks for more room."""


def run(prepared: Prepared) -> int:
    """Train on Ray and show the progress; returns the exit status."""
    with Lease(prepared.folder) as lease, cluster(prepared.config.ray) as found:
        placement = place(prepared.config, found.nodes)
        line = ProgressLine(f"{prepared.images}; {placement}")
        try:
            status = fit(prepared.config, prepared.folder, placement, line, owner=lease.owner)
        finally:
            line.close()
    if lease.lost.is_set():
        raise RunError(
            f"{prepared.folder}: another driver goes on with this run, as nothing was heard from this one; it has "
            "stopped"
        )
    print(final_words(prepared, status))
    return 0 if status["state"] == "complete" else 130


def fit(
    config: RunConfig,
    folder: Folder,
    placement: Placement,
    line: ProgressLine | None = None,
    *,
    owner: str | None = None,
) -> dict[str, Any]:
    """One run on the connected cluster, start to end; returns the loop's last status.

    Ctrl-C and SIGTERM ask the workers for a checkpoint and a clean end; the second Ctrl-C ends at once. `owner` is the
    lease under which the workers run: they stop when another driver has it. Raises ConfigError and RunError as the loop
    does, and RunError if workers failed more often than ray.max_failures, or if the private cluster is gone.
    """
    folder.remove(STOP)
    failures = 0
    with _Asked(folder, line) as asked:
        while True:
            folder.remove(RAYS_OWN)  # after a crash Ray may be unable to read it
            try:
                answer = _attempt(config, folder, placement, line, asked, owner)
                break
            except Exception as error:
                # Ray restarts workers by itself. What is left are failures of its controller, where a new one can go
                # on.
                failures += 1
                if (
                    isinstance(error, RunError)
                    or getattr(error, "worker_failures", None)
                    or 0 <= config.ray.max_failures < failures
                ):
                    raise _readable(error) from None
                _free_placements()
                if line is not None:
                    line.note(
                        f"Ray's train controller failed ({type(error).__name__}: {_last_line(error)}); starting again"
                    )
    if line is not None:
        line.update(read_status(folder))
    folder.remove(RAYS_OWN)
    if answer.get("refused"):
        raise ConfigError(answer["refused"])
    if answer.get("failed"):
        raise RunError(answer["failed"])
    return dict(answer["status"])


def _attempt(
    config: RunConfig, folder: Folder, placement: Placement, line: ProgressLine | None, asked: _Asked, owner: str | None
) -> dict[str, Any]:
    """One Ray Train run; returns what rank 0 answered. Raises what Ray raises, or RunError if the private cluster is
    gone.
    """
    from ray.train import FailureConfig, LoggingConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig

    elastic = placement.fewest != placement.most
    settings = {
        "config": config.model_dump(mode="json"),
        "folder": folder.uri,
        "cpus": placement.cpus,
        "gpus": placement.gpus,
        "owner": owner,
        "private": is_private(),
    }
    trainer = _trainer_class()(
        worker,
        train_loop_config=settings,
        backend_config=_backend(placement.gpus > 0),
        scaling_config=ScalingConfig(
            num_workers=(placement.fewest, placement.most) if elastic else placement.most,
            use_gpu=placement.gpus > 0,
            resources_per_worker=placement.resources,
            **({"elastic_resize_monitor_interval_s": RESIZE_S} if elastic else {}),
        ),
        # Ray keeps a marker file of its own there, and nothing else: no checkpoint is reported to it
        run_config=RayRunConfig(
            name=RAYS_OWN,
            storage_path=folder.uri,
            failure_config=FailureConfig(max_failures=config.ray.max_failures),
            logging_config=LoggingConfig(
                "CRITICAL" if is_private() else "INFO"
            ),  # on a private cluster it would talk in this terminal
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
        asked.act()
        _check_cluster()
    if "error" in outcome:
        _check_cluster()  # then that is the reason
        raise outcome["error"]
    return dict(outcome["result"].return_value)


def _check_cluster() -> None:
    """RunError if the private cluster is gone."""
    gone = lost_process()
    if gone:
        raise RunError(
            f"Ray's {gone} on this machine has ended (killed, or out of memory), and the workers with it\n"
            "The same command goes on from the last checkpoint"
        )


def _free_placements() -> None:
    """Give back the room that a controller which failed had reserved for its workers: the next one would wait for it
    for ever.

    On clusters Ray's placement group cleaner does that. It asks the dashboard, which a private cluster does not have;
    but there all room is this run's.
    """
    if not is_private():
        return
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    for name, found in placement_group_table().items():
        if found["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))


def _trainer_class() -> Any:
    """Ray's trainer without the helpers that a run has no use for.

    Each is a process, and 0.4 to 1 % of a core as long as the run lasts. No run has Ray datasets. A private cluster has
    no autoscaler to be asked for nodes, and nothing of the dashboard that Ray's placement group cleaner asks: see
    `_free_placements`.
    """
    from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    class WhatIsThere(FixedScalingPolicy):  # type: ignore[misc]
        def after_controller_start(self, train_run_context: Any) -> None:
            use_started_processes()

        def _maybe_send_resource_request(self) -> None:
            pass

    class Trainer(DataParallelTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            unused = {"DatasetsCallback"} | ({"PlacementGroupCleanerCallback"} if is_private() else set())
            return [
                callback for callback in super()._create_default_callbacks() if type(callback).__name__ not in unused
            ]

        def _initialize_and_run_controller(self, **settings: Any) -> Any:
            if not is_private():
                return super()._initialize_and_run_controller(**settings)
            if type(settings.get("scaling_policy")) is FixedScalingPolicy:
                settings["scaling_policy"] = WhatIsThere(self.scaling_config)
            control = controller_here() or super()._initialize_and_run_controller
            return control(**settings)

    return Trainer


def worker(settings: dict[str, Any]) -> dict[str, Any]:
    """What Ray runs in every worker process: set up the process group, then the loop."""
    share_cores()
    keep_memory()
    import ray.train
    import torch
    import torch.distributed as dist

    config, folder = validate(settings["config"]), Folder(settings["folder"])
    torch.set_num_threads(settings["cpus"])
    context = ray.train.get_context()
    if torch.cuda.is_available() and ray.get_gpu_ids():
        from ray.train.torch import get_device

        device = get_device()
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if context.get_world_size() > 1:
        # NCCL takes a GPU for one process only; gloo is for those that share it
        _join_process_group(context, "nccl" if device.type == "cuda" and settings["gpus"] >= 1 else "gloo")

    from distgan.orchestration.prometheus import exporting
    from distgan.training.context import Context
    from distgan.training.loop import train

    rank, size = context.get_world_rank(), context.get_world_size()
    over = threading.Event()
    if settings["private"] and rank == 0:
        _end_synchroniser()
        if size == 1:
            answer_slowly(over, ANSWER_S)
    told = _nobody if settings["private"] else ray.train.report
    report = exporting(told, config.run_name, total_kimg=config.kimg, rank=rank, workers=size)
    here = Context(device, on_report=report, report_every_s=REPORT_S + config.ray.poll_s)
    if here.is_main:
        threading.Thread(target=_watch, args=(folder, here, settings["owner"]), daemon=True).start()
    try:
        return {"status": train(config, here, folder)}
    except ConfigError as error:  # on all workers alike; trying again would give the same
        return {"refused": str(error)}
    except RunError as error:
        return {"failed": str(error)}
    finally:
        over.set()
        if dist.is_initialized():
            dist.destroy_process_group()


def _nobody(metrics: dict[str, Any]) -> None:
    """Takes the reports on a private cluster, which has no page that would show them."""


def _end_synchroniser() -> None:
    """End the process through which Ray's workers tell each other things, once they have met, where nothing is reported
    either.

    It does nothing any more, and interrupts the training 140 times a second. To be called on rank 0 when the process
    group is formed.
    """
    try:
        import ray
        from ray.train.v2._internal.execution.context import get_train_context

        ray.kill(get_train_context().get_synchronization_actor())
    except Exception:  # another version of Ray: then it stays
        return


def _join_process_group(context: Any, backend: str) -> None:
    """All workers meet at rank 0's address. The network interface is the one that has the node's address in Ray."""
    from datetime import timedelta

    import ray
    import torch.distributed as dist
    from ray.train.collective import broadcast_from_rank_zero

    from distgan.orchestration.network import free_port, interface_of, rendezvous_store

    address = ray.util.get_node_ip_address()
    interface = interface_of(address)
    if interface:
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, interface)
    rank, size = context.get_world_rank(), context.get_world_size()
    timeout = timedelta(seconds=float(os.environ.get("DISTGAN_COLLECTIVE_TIMEOUT_S", "600")))
    meeting = broadcast_from_rank_zero({"address": address, "port": free_port()} if rank == 0 else None)
    store = rendezvous_store(meeting["address"], meeting["port"], rank, size, timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)


def _backend(on_gpu: bool) -> Any:
    """Ray's minimal backend; on GPUs every worker sees those of its node, as NCCL wants it."""
    from ray.train.backend import Backend, BackendConfig

    if not on_gpu:
        return BackendConfig()

    class SharedDevices(Backend):  # type: ignore[misc]
        share_cuda_visible_devices = True

    class GPUConfig(BackendConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> type[Backend]:
            return SharedDevices

    return GPUConfig()


def _watch(folder: Folder, context: Any, owner: str | None) -> None:
    """Rank 0 looks for the driver's request to stop in storage, the one place that both can reach in every set-up, for
    another driver's lease there, and for Ray's notice that this node will be taken away.
    """
    looks, warned = 0, False
    while True:
        time.sleep(0.5 if folder.is_local else 3)
        looks += 1
        try:
            if folder.exists(STOP) or (owner and looks % 10 == 0 and read_lease(folder).get("owner", owner) != owner):
                context.request_stop()
                return
        except OSError:
            continue
        if not warned and _preempted():
            warned = True
            context.request_checkpoint()


def _preempted() -> bool:
    """Whether Ray has announced that a node of this group will be taken away.

    Ray's public question is one that all workers must ask together, which a thread beside the training cannot do; this
    is the flag behind it.
    """
    try:
        from ray.train.v2._internal.execution.context import get_train_context

        return get_train_context().preemption_context.preemption_info is not None
    except Exception:  # not in this version of Ray, or the group is ending
        return False


class _Asked:
    """Signals to the driver: the first asks the workers to stop, through storage; a second Ctrl-C gives up waiting."""

    def __init__(self, folder: Folder, line: ProgressLine | None) -> None:
        self.folder, self.line = folder, line
        self.count, self.told = 0, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Asked:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
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
    lines = [f"worker {rank}: {type(e).__name__}: {_last_line(e)}" for rank, e in sorted(failures.items())]
    text = "\n".join(lines) or f"{type(error).__name__}: {_last_line(error)}"
    return RunError(
        f"the workers failed and were restarted as often as ray.max_failures allows\n{text}\n"
        "The same command goes on from the last checkpoint"
    )


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
