"""The way to a cluster's job server: its address, whether it answers, and the token that it asks for."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any
from urllib.parse import urlsplit

from distgan.config import ConfigError
from distgan.orchestration.cluster import _use_token


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
    _use_token()
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # $RAY_ADDRESS would win over what was typed
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import logging

    from ray.job_submission import JobSubmissionClient

    for name in (
        "ray",
        "ray.dashboard.modules.dashboard_sdk",
        "ray.dashboard.modules.job.sdk",
    ):  # the last two have levels of their own
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(address)
    except Exception as error:
        raise ConfigError(_problem(address, error)) from None


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


def _problem(address: str, error: Exception) -> str:
    text = f"{type(error).__name__} {error}"
    source = next(
        (f"${name}" for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if os.environ.get(name)), "~/.ray/auth_token"
    )
    if "Authentication failed" in text or "Invalid authentication" in text:
        return (
            f"--address {address}: the cluster refuses this token (from {source}); give the one that its head node was "
            "started with"
        )
    if "uth" in type(error).__name__ or "Authentication" in text or "RAY_AUTH" in text:
        return (
            f"--address {address}: the cluster asks for a token and none was found; export RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH=FILE (or RAY_AUTH_TOKEN) with the one that its head node was started with"
        )
    return (
        f"--address {address}: not the job server of a Ray cluster ({first_line(error)}); it is the dashboard's "
        "address, port 8265"
    )


def first_line(error: object) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def tell(text: str) -> None:
    print(f"distgan: {text}", file=sys.stderr, flush=True)
