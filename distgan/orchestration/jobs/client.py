"""The job client: finds a cluster's job server, connects to it with the token that it asks for, and says in a line what
is wrong with its answers.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from distgan.config import ConfigError, RunError
from distgan.orchestration.auth import token_source, use_token
from distgan.text import first_line, last_line

T = TypeVar("T")


def find_address(typed: str | None) -> str:
    """The URL of the cluster's job server: as typed, from the environment, or on this machine."""
    address = typed or os.environ.get("RAY_API_SERVER_ADDRESS")
    around = os.environ.get("RAY_ADDRESS", "")
    address = address or (around if around.startswith("http") else "http://127.0.0.1:8265")
    if "://" not in address:
        address = f"http://{address}"
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise ConfigError(f"--address {address}: allowed: http://HOST:8265, the address of the cluster's dashboard")
    if port is None and parts.scheme == "http":
        address = f"http://{parts.netloc}:8265"
    return address.rstrip("/")


def connect(address: str) -> Any:
    """A JobSubmissionClient whose cluster answered and accepted the token; ConfigError says in a line what is wrong."""
    check_reachable(address)
    use_token()
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # $RAY_ADDRESS would win over what was typed
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.job_submission import JobSubmissionClient

    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] == "ray":  # some have levels of their own
            logging.getLogger(name).setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(address)
    except Exception as error:
        raise ConfigError(f"--address {address}: {_refusal(error)}") from None


def check_reachable(address: str, timeout_s: float = 10.0) -> None:
    """Raise ConfigError if nothing listens there. Ray itself would wait for minutes."""
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), timeout_s).close()
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else (error.strerror or str(error))
        raise ConfigError(
            f"--address {address}: cannot be reached ({reason}); allowed: http://HOST:8265, the dashboard of a head "
            "node that was started with --dashboard-host, or a port forwarded to it (ssh -L 8265:127.0.0.1:8265 HOST)"
        ) from None


def _refusal(error: Exception) -> str:
    text = f"{type(error).__name__} {error}"
    if "Authentication failed" in text or "Invalid authentication" in text:
        return (
            f"the cluster refuses this token (from {token_source()}); give the one that its head node was started with"
        )
    if "uth" in type(error).__name__ or "Authentication" in text or "RAY_AUTH" in text:
        return (
            "the cluster asks for a token and none was found; export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE "
            "(or RAY_AUTH_TOKEN) with the one that its head node was started with"
        )
    return f"not the job server of a Ray cluster ({first_line(error)}); it is the dashboard's address, port 8265"


def call(method: Callable[[], T], address: str, job: str | None) -> T:
    """What a method of the client returns; what it raises becomes a ConfigError or RunError of one line."""
    try:
        return method()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                "the disk is full here: the upload is packed in the temporary folder; make room or set TMPDIR to "
                "another disk"
            ) from None
        raise RunError(f"{address}: the cluster does not answer ({first_line(error)})") from None
    except Exception as error:
        text = str(error)
        if "No space left" in text:
            raise RunError(
                f"{address}: the head node's disk is full; make room in its temporary folder (/tmp/ray)"
            ) from None
        if "already exists" in text:
            raise ConfigError(
                f"--job-id {job}: there is such a job; allowed: a new name (the run goes on by its own --name)"
            ) from None
        if is_unknown_job(error):
            raise ConfigError(f"{job}: no such job on {address}; `distgan submit --status` lists them") from None
        raise RunError(f"{address}: {last_line(error)[:300]}") from None


def is_unknown_job(error: Exception) -> bool:
    return "404" in str(error) or "does not exist" in str(error)


def echo(text: str) -> None:
    """A part of a job's log, on the standard output as it is."""
    sys.stdout.write(text)
    sys.stdout.flush()


def notify(text: str) -> None:
    """A line of this command's own, beside the log."""
    print(f"distgan: {text}", file=sys.stderr, flush=True)
