"""Following a job: its log as it grows, through lost connections, and what its end means."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from distgan.config import ConfigError, RunError
from distgan.orchestration.jobs.client import check_reachable, last_line, show, tell

PATIENCE_S = 600.0
"""How long a cluster that does not answer is tried again before the log is given up (the job may well go on)."""

_NEVER_MET = re.compile(
    r"connectFullMesh|Dist(Network|Store|Backend)Error|process group.*(timed? ?out|fail)|init_process_group|TCPStore|"
    r"WorkerGroupStartup(Timeout|Failed)|worker group startup timed out|ncclUniqueId|ncclCommInit",
    re.IGNORECASE,
)
"""What is said by workers that could not form a process group: a node was lost, or a port taken, while they started."""
_LOST_DRIVER = (
    "JOB_SUPERVISOR_ACTOR_DIED",
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT",
    "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE",
)


def follow(client: Any, address: str, job: str) -> Any:
    """Print the job's log as it grows until the job ends, through lost connections; returns Ray's description of the
    job.
    """
    shown, lost_since = 0, None
    while True:
        try:
            check_reachable(address)
            shown = asyncio.run(_stream(client, job, shown))
            info = client.get_job_info(job)
            lost_since = None
            if info.status.is_terminal():
                show(client.get_job_logs(job)[shown:])
                return info
        except _Broken as broken:
            shown = broken.shown
        except (
            OSError,
            RuntimeError,
            ConfigError,
        ) as error:  # what aiohttp and requests raise derives from these, or is wrapped
            if "404" in str(error) or "does not exist" in str(error):
                raise ConfigError(f"{job}: no such job on {address}; `distgan submit --status` lists them") from None
            now = time.monotonic()
            if lost_since is None:
                lost_since = now
                tell(
                    f"the cluster does not answer; trying again for {PATIENCE_S / 60:.0f} min (the job does not need "
                    "this command)"
                )
            elif now - lost_since > PATIENCE_S:
                raise RunError(
                    f"{address}: no answer for {PATIENCE_S / 60:.0f} min; if the cluster comes back, `distgan submit "
                    f"--attach {job}`"
                ) from None
        time.sleep(1)


class _Broken(Exception):  # noqa: N818
    """The stream ended; so much of the log had been shown."""

    def __init__(self, shown: int) -> None:
        super().__init__()
        self.shown = shown


async def _stream(client: Any, job: str, shown: int, silence_s: float = 60.0) -> int:
    """Print the log from character `shown` on until it ends or is silent for a while; returns how much has been
    shown.
    """
    seen = 0
    lines = client.tail_job_logs(job)
    try:
        while True:
            try:
                text = await asyncio.wait_for(anext(lines), silence_s)
            except (StopAsyncIteration, TimeoutError, asyncio.TimeoutError):
                return max(shown, seen)
            new = text[max(0, shown - seen) :]
            seen += len(text)
            show(new)
    except Exception as error:
        if max(shown, seen) > shown:
            raise _Broken(seen) from error
        raise ConnectionError(str(error)) from error
    finally:
        await lines.aclose()


def worth_another_try(info: Any) -> bool:
    """Whether a failed job failed for reasons that lie in its start: its workers never met, or its driver's node was
    lost.
    """
    return str(getattr(info.error_type, "value", info.error_type)) in _LOST_DRIVER or bool(
        _NEVER_MET.search(info.message or "")
    )


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
    if "untime" in message and "env" in message:
        return (
            f"the job's environment could not be set up ({last_line(message)}); a missing image or package is named in "
            "it"
        )
    return f"failed before it started ({last_line(message) or info.error_type})"
