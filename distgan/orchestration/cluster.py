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
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distgan.config import ConfigError, RayConfig, RunConfig, RunError
from distgan.orchestration.auth import use_token
from distgan.orchestration.network import passed_on
from distgan.orchestration.placement import place
from distgan.orchestration.ray_compat import NO_EARLY_WORKERS, loopback_only, own_session
from distgan.storage import process_lives
from distgan.training.threads import available_cpus

MAIN_PROCESSES = ("gcs_server", "raylet")
"""The two processes without which a cluster cannot go on."""


@dataclass(frozen=True)
class Cluster:
    """Where workers can run."""

    private: bool
    nodes: list[dict[str, float]]
    """Resources of each living node, Ray's names: CPU, GPU, memory in bytes."""
    processes: dict[int, str] = field(default_factory=dict)
    """A private cluster's main processes, by pid."""

    def total(self, resource: str) -> float:
        return sum(node.get(resource, 0.0) for node in self.nodes)

    def lost_process(self) -> str | None:
        """Which of a private cluster's main processes has ended by itself, or None.

        Ray's own answer is to wait for a minute, and to end this process then.
        """
        return next((name for pid, name in self.processes.items() if not process_lives(pid)), None)


@contextmanager
def cluster(settings: RayConfig) -> Iterator[Cluster]:
    """Connect to `settings.address` or $RAY_ADDRESS, else start a private Ray here; disconnect and end it afterwards.

    Raises ConfigError if the cluster cannot be reached or refuses the token.
    """
    address = settings.address or os.environ.get("RAY_ADDRESS")
    joined = "ray" in sys.modules and sys.modules["ray"].is_initialized()  # this process has a cluster already
    # Read by Ray when it is imported or when workers are started, so they are set before.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(settings.poll_s))
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(settings.start_timeout_s))
    # Of Ray's 5 s too little is left where notice is short
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "2")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address and not joined:
        check_address(address)
        use_token()
    elif not joined:
        _private_environment()
    import ray

    started: dict[int, str] = {}
    with _ends_by_signal():
        if not joined and address:
            _connect(ray, address)
        elif not joined:
            started = _start_private(ray, settings)
    nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    here = Cluster(private=not joined and not address, nodes=nodes, processes=started)
    try:
        with _ends_by_signal():
            yield here
    finally:
        if not joined and here.lost_process():
            _abandon(ray, here)
        elif not joined:
            ray.shutdown()


@contextmanager
def _ends_by_signal() -> Iterator[None]:
    """Inside, SIGTERM ends this process with the status that shells give for it: `ray.init` has its own handler, which
    exits with 15.
    """
    try:
        yield
    except SystemExit as end:
        if end.code == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM) from None
        raise


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


def _private_environment() -> None:
    """A private cluster is for this command alone: a token that is in no file and ends with it, workers on loopback.

    Ray reads the mode when it is imported. A Python session that has done that before (a notebook, after a run of one
    worker) leaves the token to Ray, which keeps one in ~/.ray/auth_token.
    """
    if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # The paths of Ray's sockets may have 107 bytes, of which its own names take 70
    if len(tempfile.gettempdir()) > 35 and os.access("/tmp", os.W_OK):
        os.environ.setdefault("RAY_TMPDIR", "/tmp")
    os.environ.setdefault(*NO_EARLY_WORKERS)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody takes this machine's one node away


def _start_private(ray: Any, settings: RayConfig) -> dict[int, str]:
    """Start Ray here; returns its main processes by pid."""
    before, began = set(_children(os.getpid())), time.time()
    with own_session(), loopback_only() as address, _elsewhere(ray):
        ray.init(
            address="local",
            num_cpus=available_cpus(),
            include_dashboard=settings.dashboard,
            object_store_memory=128 * 2**20,
            logging_level="ERROR",
            log_to_driver=False,
            **address,
        )
    try:
        _check_workers_start(ray, settings.start_timeout_s, began)
    except BaseException:
        ray.shutdown()
        raise
    started = {pid: _program(pid) for pid in _children(os.getpid()) if pid not in before}
    return {pid: name for pid, name in started.items() if name in MAIN_PROCESSES}


@contextmanager
def _elsewhere(ray: Any) -> Iterator[None]:
    """Inside, the working folder is the one that Ray is installed in.

    Ray puts the folder in which it is started first where its processes look for modules, and a file of the user's
    there (numpy.py, random.py) would take a package's name. Workers look there last (`registry.look_in`).
    A job has its working folder from Ray, which stays.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        yield
        return
    here = os.getcwd()
    os.chdir(Path(ray.__file__).parent.parent)
    try:
        yield
    finally:
        os.chdir(here)


def _check_workers_start(ray: Any, timeout_s: float, since: float) -> None:
    """RunError after timeout_s if no worker process comes up: one that dies while it imports is replaced for ever, and
    whoever waits for it waits as long. The process that answers is the first one's to use.
    """
    answer, deadline, asked = ray.remote(num_cpus=0)(_pid).remote(), time.monotonic() + timeout_s, list[int]()
    main = threading.current_thread() is threading.main_thread()
    if main:  # Ray's handler, in C++, prints where it was; an exit inside of ray.wait is turned into another
        signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    while not ray.wait([answer], timeout=0.3)[0]:
        if asked:
            _exit(asked[0])
        if time.monotonic() > deadline:
            said = _last_words(since)
            raise RunError(
                f"ray.start_timeout_s = {timeout_s:g}: no worker process of Ray's has started in that time"
                + (f"; the last one said: {said}" if said else "")
            )

    if main:
        signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: Any = None) -> None:
    raise SystemExit(128 + number)


def _pid() -> int:
    return os.getpid()


def _last_words(since: float) -> str:
    """The last line that a process of Ray's has written to its errors since then, "" if there is none. What a worker
    says before it has a log of its own is in raylet's.
    """
    logs = f"{os.environ.get('RAY_TMPDIR') or tempfile.gettempdir()}/ray/session_latest/logs"
    files = [Path(file) for kind in ("worker", "raylet") for file in glob.glob(f"{logs}/{kind}*.err")]
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        if file.stat().st_mtime >= since:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            if words := [line.strip() for line in lines if line.strip() and not line.startswith(":")]:
                return words[-1]
    return ""


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _connect(ray: Any, address: str) -> None:
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if passed_on() and "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a job has them from `distgan submit`
        options["runtime_env"] = {"env_vars": passed_on()}
    try:
        with _elsewhere(ray):
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


def _abandon(ray: Any, lost: Cluster) -> None:
    """End what is left of a private cluster that lost a main process. Ray's shutdown would wait for that process's
    answers, and so would raylet's helpers, for a minute, that their raylet is gone.
    """
    atexit.unregister(ray.shutdown)
    _kill([*lost.processes, *(child for pid in lost.processes for child in _children(pid))])


def _children(pid: int) -> list[int]:
    """Processes that `pid` has started, where the system tells (Linux)."""
    found = []
    for file in glob.glob(f"/proc/{pid}/task/*/children"):
        with suppress(OSError):
            found += [int(child) for child in Path(file).read_text(encoding="utf-8").split()]
    return found


def _program(pid: int) -> str:
    """The name of a process's program, "" if it is gone."""
    try:
        return Path(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()).name
    except OSError:
        return ""
