"""What distgan needs of Ray and cannot have by its public names. No other file knows such a name (a test looks).

Tried with the Ray versions that pyproject.toml allows. Without an entry, in a Ray that has it no more:

    loopback_only      a private cluster is refused: ConfigError, nothing is started
    own_session        Ctrl-C still works (Ray blocks SIGINT in its processes); where a terminal is closed, what was
                       trained since the last checkpoint is lost
    NO_EARLY_WORKERS   where workers die at their start, `ray.init` waits for them without an end
    forget_run_state   a damaged record of Ray's ends a run's start with an error; no checkpoint is lost
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distgan.config import ConfigError
from distgan.storage import Folder

NO_EARLY_WORKERS = ("RAY_prestart_worker_first_driver", "0")
"""A variable, and its value, with which a cluster makes workers when they are asked for. Else `ray.init` waits for as
many as there are processors, without an end and deaf to signals.
"""
RUN_STATE = "checkpoint_manager_snapshot.json"
"""Ray Train's record of the checkpoints that were reported to it, in a run's folder (Ray 2.60)."""


@contextmanager
def loopback_only() -> Iterator[dict[str, str]]:
    """Gives what `ray.init` must be told to listen on the loopback interface alone; inside, Ray takes it at its word.

    Ray replaces 127.0.0.1 by an address that other machines reach, and then listens on every interface. A cluster for
    one command on one machine has no business there. Raises ConfigError where this Ray cannot be kept from it.
    """
    import ray
    from ray._private import services

    resolve = getattr(services, "resolve_ip_for_localhost", None)
    if resolve is None:
        raise ConfigError(
            f"workers: Ray {ray.__version__} cannot be kept to the loopback interface; allowed: workers = 1, a version "
            "of Ray that distgan was tried with, or a cluster of your own (`ray start --head`, then --ray.address "
            "auto)"
        )
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield {"_node_ip_address": "127.0.0.1"}
    finally:
        services.resolve_ip_for_localhost = resolve


@contextmanager
def own_session() -> Iterator[None]:
    """Inside, Ray's processes start in sessions of their own.

    A signal to this command's process group (`timeout`, a closed terminal) then reaches this process alone, which asks
    the workers for a checkpoint, and not at the same time the cluster that they need for it. The kernel still ends them
    with this process.
    """
    from ray._private import services

    start = getattr(services, "ConsolePopen", None)
    if start is None:
        yield
        return

    class InOwnSession(start):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{"start_new_session": True, **options})

    services.ConsolePopen = InOwnSession
    try:
        yield
    finally:
        services.ConsolePopen = start


def forget_run_state(folder: Folder) -> None:
    """Remove Ray Train's record of a run. distgan resumes from the run's own checkpoints; what Ray would do with a
    record of checkpoints that were pruned since, or with a truncated one, is to refuse to start.
    """
    folder.remove(RUN_STATE)
