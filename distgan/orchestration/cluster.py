"""The Ray cluster that a run uses: one that exists, or a private one on this machine for as long as the command
runs.
"""

from __future__ import annotations

import atexit
import glob
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distgan.config import ConfigError, RayConfig, RunConfig
from distgan.orchestration.auth import use_token
from distgan.orchestration.lean import without_helpers
from distgan.orchestration.network import passed_on
from distgan.orchestration.placement import place
from distgan.training.threads import available_cpus


@dataclass(frozen=True)
class Cluster:
    """Where workers can run."""

    private: bool
    nodes: list[dict[str, float]]
    """Resources of each living node, Ray's names: CPU, GPU, memory in bytes."""

    def total(self, resource: str) -> float:
        return sum(node.get(resource, 0.0) for node in self.nodes)


@contextmanager
def cluster(settings: RayConfig) -> Iterator[Cluster]:
    """Connect to `settings.address` or $RAY_ADDRESS, else start a private Ray here; disconnect and end it afterwards.

    Raises ConfigError if the cluster cannot be reached or refuses the token.
    """
    address = settings.address or os.environ.get("RAY_ADDRESS")
    # Read by Ray when it is imported or when workers are started, so they are set before.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(settings.poll_s))
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(settings.start_timeout_s))
    os.environ.setdefault(
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "2"
    )  # of Ray's 5 s too little is left where notice is short
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address:
        check_address(address)
        use_token()
    else:
        _private_environment(settings)
    import ray

    joined = ray.is_initialized()
    if not joined:
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if address:
            if passed_on() and "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a job has them from `distgan submit`
                options["runtime_env"] = {"env_vars": passed_on()}
            _connect(ray, address, options)
        else:
            with _own_session(), _loopback_only(), nullcontext() if settings.dashboard else without_helpers():
                ray.init(
                    address="local",
                    num_cpus=available_cpus(),
                    include_dashboard=settings.dashboard,
                    object_store_memory=128 * 2**20,
                    _node_ip_address="127.0.0.1",
                    **options,
                )
            if not settings.dashboard:
                _end_log_monitor()
    try:
        yield Cluster(private=not address, nodes=[dict(n["Resources"]) for n in ray.nodes() if n["Alive"]])
    finally:
        if not joined:
            if lost_process():
                _abandon()
            else:
                ray.shutdown()


def check_early(config: RunConfig) -> None:
    """Refuse what shows before Ray is even imported: a head node that does not answer, more workers than this machine
    has room for.

    Raises ConfigError. GPUs are Ray's to count; where there are any, `place` decides when it has.
    """
    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return  # this process has a cluster already
    if address:
        check_address(address)
    elif not glob.glob("/dev/nvidia[0-9]*") and not os.path.exists("/dev/kfd"):
        place(config, [{"CPU": float(available_cpus())}])


def check_address(address: str) -> None:
    """ConfigError if nobody listens at HOST:PORT: Ray would try for a minute, deaf to signals, and fill the terminal
    meanwhile.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if "://" in address.removeprefix("ray://") or not host or not port.isdigit():
        return  # auto, local, or Ray's to explain
    hosts = [host.strip("[]")]
    if hosts[0] in ("localhost", "127.0.0.1"):
        hosts.append(_outward_address())  # Ray takes that one in its place
    problem: OSError | None = None
    for candidate in hosts:
        try:
            socket.create_connection((candidate, int(port)), timeout=10).close()
            return
        except (OSError, OverflowError) as error:
            problem = error if isinstance(error, OSError) else OSError("no such port")
    raise ConfigError(
        f"ray.address = {address}: nobody answers there ({problem}); check ray.address (or $RAY_ADDRESS) and that the "
        "head node runs: `ray start --head` shows its address"
    )


def _outward_address() -> str:
    """This machine's address on the way out; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def is_private() -> bool:
    """Whether the cluster that this process is connected to is its own."""
    from ray._private import worker

    return bool(worker._global_node is not None and worker._global_node.all_processes)


def _end_log_monitor() -> None:
    """Its readers are Ray's dashboard and the driver's terminal. Neither is used here, and on two cores it costs 0.7 %
    of one.
    """
    from ray._private import worker

    kill = getattr(worker._global_node, "kill_log_monitor", None)
    if kill is not None:
        kill(check_alive=False)


def lost_process() -> str | None:
    """Which of the private cluster's two main processes has ended by itself: raylet, gcs_server, or None. It cannot go
    on without.

    Ray's own answer is to wait for a minute and to end this process then.
    """
    from ray._private import worker

    node = worker._global_node
    processes = node.all_processes if node is not None else {}
    for kind in ("gcs_server", "raylet"):
        if any(info.process.poll() is not None for info in processes.get(kind, [])):
            return kind
    return None


def _abandon() -> None:
    """End what is left of a private cluster that lost a main process. Ray's shutdown would wait for that process's
    answers, and so would raylet's helpers, for a minute, that their raylet is gone.
    """
    from ray._private import worker

    atexit.unregister(worker.shutdown)
    node = worker._global_node
    helpers = [pid for info in node.all_processes.get("raylet", []) for pid in _children(info.process.pid)]
    node.kill_all_processes(check_alive=False, allow_graceful=False)
    for pid in helpers:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    """Processes that `pid` has started, where the system tells (Linux)."""
    return [
        int(child) for file in glob.glob(f"/proc/{pid}/task/*/children") for child in Path(file).read_text().split()
    ]


@contextmanager
def _own_session() -> Iterator[None]:
    """Processes that Ray starts meanwhile get a session of their own.

    A signal to this command's process group (Ctrl-C, `timeout`, a closed terminal) then reaches this process alone,
    which asks the workers for a checkpoint, and not at the same time the cluster that the workers need for writing one.
    The kernel still ends them with this process.
    """
    from ray._private import services

    starter = getattr(services, "ConsolePopen", None)
    if starter is None:
        yield
        return

    class InOwnSession(starter):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{"start_new_session": True, **options})

    services.ConsolePopen = InOwnSession
    try:
        yield
    finally:
        services.ConsolePopen = starter


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Ray replaces 127.0.0.1 by an address that others can reach, and then listens on every interface; here it does
    not.
    """
    from ray._private import services

    resolve = getattr(services, "resolve_ip_for_localhost", None)
    if resolve is None:
        yield
        return
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = resolve


def _private_environment(settings: RayConfig) -> None:
    """A private cluster is for this command alone: loopback only, and a token that is in no file and ends with it."""
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # Ray gives its workers the lowest priority but four, behind its own services; here the workers are what the machine
    # is for.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # What serves clusters of several nodes, or a dashboard, and takes time from the workers on a machine of few cores.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    for looking in (
        "memory_monitor_refresh_ms",
        "local_fs_monitor_interval_ms",
    ):  # raylet's own: four and ten times a second
        os.environ.setdefault(f"RAY_{looking}", "1000")
    if not settings.dashboard:
        for collecting in ("enable_metrics_collection", "event_stats", "task_events_report_interval_ms"):
            os.environ.setdefault(f"RAY_{collecting}", "0")


def _connect(ray: Any, address: str, options: dict[str, Any]) -> None:
    try:
        ray.init(address=address, **options)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "check ray.address (or $RAY_ADDRESS) and that the head node runs"
        if "auth" in f"{type(error).__name__} {error}".lower():
            hint = (
                "the cluster asks for a token: export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) "
                "as on its head node"
            )
        raise ConfigError(f"ray.address = {address}: cannot connect to the cluster ({reason}); {hint}") from None
