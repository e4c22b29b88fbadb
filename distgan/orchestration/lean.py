"""Ray's private cluster without the processes that one run on one machine has no use for: on two cores they took half
of the start.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PORTS = ("RUNTIME_ENV_AGENT", "DASHBOARD_AGENT_LISTEN", "METRICS_AGENT", "METRICS_EXPORT")
"""The ports that raylet waits to be told by its agents, in Ray's words."""


@contextmanager
def without_helpers() -> Iterator[None]:
    """While Ray starts here: no autoscaler, dashboard or reader of logs, and of the agents on the node only what raylet
    waits for.

    Each is a Python process that imports Ray, the dashboard's ones its web server too. Nobody asks them anything: there
    is no second node, no browser, and the driver's terminal shows no logs of workers. The agent's web server would
    moreover take a fixed port, and hold up the start for 3 s where another Ray on this machine has it. What a version
    of Ray does not have stays.

    Agents have a stand-in (standby.py): that of runtime environments starts when somebody asks for one, that of the
    dashboard, which has no service to offer where its parts are missing, does not start at all.
    """
    from ray import _raylet
    from ray._private import services, utils
    from ray._private.node import Node

    ports = [getattr(_raylet, f"{what}_PORT_NAME", "") for what in _PORTS]
    told = (
        {"--runtime_env_agent_command": ports[0], "--dashboard_agent_command": ",".join(ports[1:])}
        if all(ports)
        else {}
    )
    missing = object()
    starter: Any = getattr(services, "ConsolePopen", object)

    class OneMoreAhead(starter):  # type: ignore[misc]
        """raylet starts a process a CPU ahead, which is for the workers; one more is for their synchroniser."""

        def __init__(self, command: Any, *args: Any, **options: Any) -> None:
            super().__init__([self._instead(word) for word in command], *args, **options)

        @staticmethod
        def _instead(word: str) -> str:
            name, _, value = word.partition("=")
            if name == "--num_prestart_python_workers":
                return f"{name}={int(value) + 1}"
            if name in told:
                stand_in = [
                    sys.executable,
                    "-S",
                    str(Path(__file__).with_name("standby.py")),
                    told[name],
                    "--",
                ]  # -S: no packages
                return f"{name}={subprocess.list2cmdline(stand_in)} {value}"
            return word

    changes: list[tuple[Any, str, Any]] = [
        (Node, "start_monitor", lambda node: None),
        (Node, "start_log_monitor", lambda node: None),
        (Node, "start_api_server", lambda node, **options: None),
        (services, "ConsolePopen", OneMoreAhead),
        (
            utils,
            "get_dashboard_dependency_error",
            lambda: ImportError("not wanted here"),
        ),  # the agent then is the minimal one
    ]
    before = [(place, name, getattr(place, name, missing)) for place, name, _ in changes]
    for place, name, change in changes:
        if hasattr(place, name):
            setattr(place, name, change)
    try:
        yield
    finally:
        for place, name, own in before:
            if own is not missing:
                setattr(place, name, own)


def use_started_processes() -> None:
    """Let actors of Ray Train run in the processes that raylet starts ahead, instead of in new ones.

    Train gives its actors a runtime environment of the driver's variables, which no process that was started ahead has.
    On a private cluster all processes descend from the driver and have them anyway. To be called where Train's
    controller runs.
    """
    from ray.train.v2._internal.execution.worker_group import worker_group

    if hasattr(worker_group, "get_env_vars_to_propagate"):
        worker_group.get_env_vars_to_propagate = _OwnEnvironment


class _OwnEnvironment(dict[str, str]):
    """No variables: what is set as a default goes into this process's environment, or has come through it."""

    def setdefault(self, key: str, default: str = "") -> str:
        return os.environ.setdefault(key, default)


def controller_here() -> Callable[..., Any] | None:
    """What runs Ray Train's controller in this process and not in an actor's, if this version of Ray lets it: takes the
    controller's settings, returns the run's Result, raises what the controller raises.

    An actor outlives a driver that is elsewhere and goes away, which that of a private cluster cannot. As a process of
    its own it interrupts the training 170 times a second, of which 100 are Ray's look for signals in every worker
    process.
    """
    try:
        from ray.runtime_context import RuntimeContext
        from ray.train.v2._internal.execution.controller.controller import TrainController

        own = RuntimeContext.__dict__["current_actor"]
    except (ImportError, KeyError):
        return None

    def run(**settings: Any) -> Any:
        import asyncio

        # Workers get a handle of the controller's actor, which they use for reported checkpoints alone: here nothing is
        # reported
        RuntimeContext.current_actor = property(lambda context: None)
        try:
            controller = TrainController(**settings)
            asyncio.run(controller.run())
            return controller.get_result()
        finally:
            RuntimeContext.current_actor = own

    return run


def answer_slowly(over: threading.Event, patience_s: float) -> bool:
    """In a worker: let Ray Train's question how it is going wait for its answer until the training is over, or for so
    long.

    Between questions a Ray process looks for signals 100 times a second, and interrupts the training each time; while
    it answers one it does not. The controller takes an answer that is late for a worker that trains, for minutes. For a
    worker that is alone: others would be ended later when one has failed. Returns whether this version of Ray lets it.
    """
    try:
        from ray.train.v2._internal.execution.context import get_train_context

        runner = get_train_context().execution_context.training_thread_runner
        find_error = runner.get_error
    except (ImportError, AttributeError):
        return False

    def find_error_later() -> Any:
        over.wait(patience_s)
        return find_error()

    runner.get_error = find_error_later
    return True
