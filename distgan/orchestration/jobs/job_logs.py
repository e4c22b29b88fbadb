"""Job logs: a job's log as it grows, through lost connections, and what its end means."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from distgan.config import ConfigError, RunError
from distgan.orchestration.jobs.client import check_reachable, echo, is_unknown_job, notify
from distgan.text import command, duration, last_line

RECONNECT_S = 600.0
"""How long a cluster that does not answer is tried again before the log is given up (the job may well go on)."""
SILENCE_S = 60.0
"""A log that is silent for so long is asked for again, in case its connection is gone."""

RENDEZVOUS_FAILED = re.compile(
    r"connectFullMesh|Dist(Network|Store|Backend)Error|process group.*(timed? ?out|fail)|init_process_group|TCPStore|"
    r"WorkerGroupStartup(Timeout|Failed)|worker group startup timed out|ncclUniqueId|ncclCommInit",
    re.IGNORECASE,
)
"""What is said by workers that could not form a process group: a node was lost, or a port taken, while they started."""
DRIVER_LOST = (
    "JOB_SUPERVISOR_ACTOR_DIED",
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT",
    "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE",
)
"""Ray's error types of a job whose driver's node was lost."""


def follow(client: Any, address: str, job: str) -> Any:
    """Print the job's log as it grows until the job ends, through lost connections; returns Ray's JobDetails."""
    shown, lost_since = 0, None
    while True:
        try:
            check_reachable(address)
            shown = asyncio.run(_stream(client, job, shown))
            info = client.get_job_info(job)
            lost_since = None
            if info.status.is_terminal():
                echo(client.get_job_logs(job)[shown:])
                return info
        except StreamLostError as lost:
            shown = lost.shown
        # What aiohttp and requests raise derives from these, or is wrapped in them
        except (OSError, RuntimeError, ConfigError) as error:
            if is_unknown_job(error):
                raise ConfigError(f"{job}: no such job on {address}; `distgan submit --status` lists them") from None
            now = time.monotonic()
            if lost_since is None:
                lost_since = now
                notify(
                    f"the cluster does not answer; trying again for {duration(RECONNECT_S)} (the job does not need "
                    "this command)"
                )
            elif now - lost_since > RECONNECT_S:
                raise RunError(
                    f"{address}: no answer for {duration(RECONNECT_S)}; if the cluster comes back, "
                    f"`{command('distgan', 'submit', '--attach', job, '--address', address)}` follows the job again"
                ) from None
        time.sleep(1)


class StreamLostError(Exception):
    """The connection broke after something new had come; `shown` characters of the log have been printed."""

    def __init__(self, shown: int) -> None:
        super().__init__()
        self.shown = shown


async def _stream(client: Any, job: str, shown: int) -> int:
    """Print the log from character `shown` on until it ends or is silent for a while; returns how much of it has been
    printed.
    """
    seen = 0
    lines = client.tail_job_logs(job)
    try:
        while True:
            try:
                text = await asyncio.wait_for(anext(lines), SILENCE_S)
            except (StopAsyncIteration, TimeoutError, asyncio.TimeoutError):
                return max(shown, seen)
            new = text[max(0, shown - seen) :]
            seen += len(text)
            echo(new)
    except Exception as error:
        if seen > shown:
            raise StreamLostError(seen) from error
        raise ConnectionError(str(error)) from error
    finally:
        await lines.aclose()


def is_retryable(info: Any) -> bool:
    """Whether a failed job failed for reasons that lie in its start: the workers' rendezvous failed, or its driver's
    node was lost.
    """
    lost = str(getattr(info.error_type, "value", info.error_type)) in DRIVER_LOST
    return lost or bool(RENDEZVOUS_FAILED.search(info.message or ""))


def explain(info: Any) -> str:
    """A failed job in one line: what failed and what to do."""
    message = info.message or ""
    if "No module named" in message and "distgan" in message.partition("No module named")[2][:20]:
        return (
            "the cluster's nodes have no distgan; use an image that has it (docker/Dockerfile), or --working-dir with "
            "a checkout of it"
        )
    if info.driver_exit_code == 127 or "python: not found" in message:
        return "the cluster's nodes find no `python`; start Ray there with the environment's bin folder in PATH"
    if info.driver_exit_code is not None:
        return f"failed with exit code {info.driver_exit_code}"
    reason = last_line(message)[:300]
    if "untime" in message and "env" in message:
        return f"the job's environment could not be set up ({reason}); a missing image or package is named in it"
    return f"failed before it started ({reason or info.error_type})"
