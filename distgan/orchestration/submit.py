"""Jobs on a cluster: `distgan submit train ...` runs `distgan train ...` on the cluster's head node, with the code and configs of here.

Ray's job server does the work: it keeps the upload, runs the command and keeps its log. What is added is what a person would do:
mistakes are found before anything is sent, the log is followed through broken connections, the job's exit code becomes this
command's, and a job whose workers never found each other is sent again under the same run name, which goes on from its last
checkpoint. The job lives on the cluster: this command may die, and `distgan submit --attach ID` looks again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import secrets
import shlex
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from distgan.config import KNOWN_SETS, ConfigError, RunConfig, RunError
from distgan.orchestration.cluster import _use_token

LIMIT_MIB = 256
"""Largest upload. The head node keeps it in memory, and every node fetches it."""
PATIENCE_S = 600.0
"""How long a cluster that does not answer is tried again before the log is given up (the job may well go on)."""
STOP_WAIT_S = 120
"""Time a stopped job gets for its last checkpoint; Ray's own 3 s are too few."""
PASSED_ON = ("NCCL_", "TORCH_NCCL_", "UCX_", "FI_EFA_", "RDMAV_")
"""Beginnings of variables that tune networks and are sent along from here."""
ACTIONS = ("attach", "status", "stop")

_NEVER_MET = re.compile(
    r"connectFullMesh|Dist(Network|Store|Backend)Error|process group.*(timed? ?out|fail)|init_process_group|TCPStore|"
    r"WorkerGroupStartup(Timeout|Failed)|worker group startup timed out|ncclUniqueId|ncclCommInit",
    re.IGNORECASE,
)
"""What is said by workers that could not form a process group: a node was lost, or a port taken, while they started."""
_LOST_DRIVER = ("JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_START_TIMEOUT", "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE")


@dataclass(frozen=True)
class Request:
    """What was typed after `distgan submit`."""

    action: str
    """A command of distgan, or attach, status, stop."""
    settings: list[str] = field(default_factory=list)
    address: str = ""
    job: str | None = None
    working_dir: str | None = "."
    """The folder that is sent; None sends nothing."""
    env: dict[str, str] = field(default_factory=dict)
    resubmit: int = 2
    wait: bool = True


def read_request(arguments: Sequence[str], commands: Sequence[str]) -> Request:
    """What the arguments ask for; `commands` are those that can be jobs. Raises ConfigError for what cannot be meant."""
    parser = argparse.ArgumentParser(
        "distgan submit",
        usage="distgan submit COMMAND [--address URL] [--working-dir DIR] [--env NAME[=VALUE]] ... [SETTINGS OF THE COMMAND]\n"
        "       distgan submit --attach ID | --stop ID | --status [ID] [--address URL]",
        description="Run a command as a job on a Ray cluster, follow its log and end with its exit code. Ctrl-C leaves the job running.",
        epilog=f"Commands: {', '.join(commands)}. Settings may follow after -- too.",
        allow_abbrev=False,
    )
    parser.add_argument("--address", help="the cluster's dashboard (default: $RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265)")
    parser.add_argument("--working-dir", default=".", help="folder that is sent, without what .gitignore and .rayignore name; none = nothing")
    parser.add_argument("--job-id", help="the job's own name (default: made from command and time)")
    parser.add_argument("--env", action="append", default=[], metavar="NAME[=VALUE]", help="variable for the job; without VALUE as it is here")
    parser.add_argument("--resubmit", type=int, default=2, help="times to send a job again whose workers never met (default: %(default)s)")
    parser.add_argument("--no-wait", action="store_true", help="print the job's ID and do not follow it")
    parser.add_argument("--attach", metavar="ID", help="follow a job that was submitted before")
    parser.add_argument("--stop", metavar="ID", help=f"end a job; it has {STOP_WAIT_S} s for a last checkpoint")
    parser.add_argument("--status", metavar="ID", nargs="?", const="", help="state of one job, or of all")

    own, mark, after = _split(list(arguments), "--")
    action = own.pop(0) if own and not own[0].startswith("-") else ""
    options, settings = parser.parse_known_args(own)
    settings += after
    asked = [(name, getattr(options, name)) for name in ACTIONS if getattr(options, name) is not None]
    if action in ACTIONS:
        asked.append((action, settings.pop(0) if settings else ""))
        action = ""
    if len(asked) + bool(action) != 1:
        raise ConfigError(f"submit: what shall be done? allowed: one of {', '.join(commands)}, or one of --attach ID, --stop ID, --status [ID]")
    if action and action not in commands:
        raise ConfigError(f"submit {action}: no such command; allowed: {', '.join(commands)}")
    if options.resubmit < 0:
        raise ConfigError(f"--resubmit {options.resubmit}: allowed: 0 or more")
    if not action:
        action, job = asked[0]
        if settings or mark:
            raise ConfigError(f"submit --{action}: takes no settings (found {' '.join(settings) or '--'})")
        if not job and action != "status":
            raise ConfigError(f"submit --{action}: needs a job's ID; `distgan submit --status` lists them")
        return Request(action, address=find_address(options.address), job=job or None, resubmit=options.resubmit)
    working_dir = None if options.working_dir in ("none", "") else options.working_dir
    if working_dir is not None and not Path(working_dir).is_dir():
        raise ConfigError(f"--working-dir {working_dir}: no such folder; allowed: a folder, or none to send nothing")
    env = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
    env |= {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON) and not k.endswith("_IFNAME")} | _variables(options.env)
    return Request(
        action, _inside(settings, working_dir), find_address(options.address), options.job_id, working_dir, env, options.resubmit,
        not options.no_wait,
    )  # fmt: skip


def check_settings(config: RunConfig) -> None:
    """Raise ConfigError for settings that mean another place on the cluster than here, or a place that ends with the job."""
    if not _means_the_same_everywhere(config.storage):
        raise ConfigError(
            f"storage = {config.storage}: a relative path would lie in the job's temporary folder and be lost with it; allowed: the absolute "
            "path of a folder that all nodes share, s3://bucket/path or gs://bucket/path"
        )
    if config.data.name not in KNOWN_SETS and not _means_the_same_everywhere(config.data.name):
        raise ConfigError(f"data.name = {config.data.name}: a job needs the absolute path that the nodes share, or a URI")


def run(request: Request) -> int:
    """Do what was asked for; returns the exit status: the job's own, 130 for one that was stopped or left running by Ctrl-C."""
    client = connect(request.address)
    if request.action == "status":
        return _print_status(client, request.job)
    if request.action == "stop":
        assert request.job is not None
        stopped = _ask(request, lambda: client.stop_job(request.job))
        _tell(f"{request.job}: {'is being stopped, after a last checkpoint' if stopped else 'had ended already'}")
        return 0
    if request.action == "attach":
        assert request.job is not None
        return _see_through(client, _request_of(client, request), request.job)
    if request.working_dir is not None:
        check_size(Path(request.working_dir))
    job = submit(client, request, request.job)
    where = f"--address {request.address}"
    _tell(f"job {job}; follow it with `distgan submit --attach {job} {where}`, end it with `distgan submit --stop {job} {where}`")
    if not request.wait:
        print(job)
        return 0
    return _see_through(client, request, job)


# ---------------------------------------------------------------------------------------------------------------------
# Finding the cluster


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

    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(address)
    except Exception as error:
        raise ConfigError(_connection_problem(address, error)) from None


def check_reachable(address: str, timeout_s: float = 10.0) -> None:
    """Raise ConfigError if nothing listens there. Ray itself would wait for minutes."""
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), timeout_s).close()
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else (error.strerror or str(error))
        raise ConfigError(
            f"--address {address}: cannot be reached ({reason}); allowed: http://HOST:8265, the dashboard of a head node that was started "
            "with --dashboard-host, or a port forwarded to it (ssh -L 8265:127.0.0.1:8265 HOST)"
        ) from None


def _connection_problem(address: str, error: Exception) -> str:
    text = f"{type(error).__name__} {error}"
    source = next((f"${name}" for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if os.environ.get(name)), "~/.ray/auth_token")
    if "Authentication failed" in text or "Invalid authentication" in text:
        return f"--address {address}: the cluster refuses this token (from {source}); give the one that its head node was started with"
    if "uth" in type(error).__name__ or "Authentication" in text or "RAY_AUTH" in text:
        return (
            f"--address {address}: the cluster asks for a token and none was found; export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE "
            "(or RAY_AUTH_TOKEN) with the one that its head node was started with"
        )
    return f"--address {address}: not the job server of a Ray cluster ({_first_line(error)}); it is the dashboard's address, port 8265"


# ---------------------------------------------------------------------------------------------------------------------
# Sending


def check_size(folder: Path) -> int:
    """Bytes that will be sent of a folder; ConfigError names the largest parts if they are more than LIMIT_MIB."""
    parts: dict[str, int] = {}
    for path in packed_files(folder):
        head = path.relative_to(folder).parts[0]
        parts[head] = parts.get(head, 0) + path.stat().st_size
    total = sum(parts.values())
    if total > LIMIT_MIB * 2**20:
        largest = ", ".join(f"{name} ({size / 2**20:.0f} MiB)" for name, size in sorted(parts.items(), key=lambda p: -p[1])[:3])
        raise ConfigError(
            f"--working-dir {folder}: {total / 2**20:.0f} MiB would be sent, most of it in {largest}; allowed: {LIMIT_MIB} MiB. "
            "Name what the job does not need in .gitignore or .rayignore; data belongs into storage that the nodes share"
        )
    return total


def packed_files(folder: Path) -> list[Path]:
    """The files that Ray packs: all but those that .gitignore and .rayignore name, .git, and virtual environments."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    found: list[Path] = []
    excluded = [_get_excludes(folder, get_runtime_env_default_excludes())]
    _dir_travel(folder, excluded, lambda path: found.append(path) if path.is_file() else None, include_gitignore=True)
    return found


def submit(client: Any, request: Request, job: str | None = None) -> str:
    """Send the code and start the job; returns its ID. Raises ConfigError or RunError with one line."""
    command = ["python", "-m", "distgan", request.action, *request.settings]
    runtime_env: dict[str, Any] = {"env_vars": request.env}
    if request.working_dir is not None:
        runtime_env["working_dir"] = str(Path(request.working_dir).absolute())
    again = {"action": request.action, "settings": request.settings, "working_dir": runtime_env.get("working_dir"), "host": socket.gethostname()}
    name = job or f"distgan-{request.action}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    return str(
        _ask(
            request,
            # exec: signals meant for the job reach it, not a shell around it
            lambda: client.submit_job(
                entrypoint=f"exec {shlex.join(command)}", submission_id=name, runtime_env=runtime_env, metadata={"distgan": json.dumps(again)}
            ),
        )
    )


def _ask(request: Request, question: Any) -> Any:
    try:
        return question()
    except OSError as error:
        import errno

        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError("the disk is full here: the upload is packed in the temporary folder; make room or set TMPDIR to another disk") from None
        raise RunError(f"{request.address}: the cluster does not answer ({_first_line(error)})") from None
    except Exception as error:
        text = str(error)
        if "No space left" in text:
            raise RunError(f"{request.address}: the head node's disk is full; make room in its temporary folder (/tmp/ray)") from None
        if "already exists" in text:
            raise ConfigError(f"--job-id {request.job}: there is such a job; allowed: a new name (the run goes on by its own --name)") from None
        if "404" in text or "does not exist" in text:
            raise ConfigError(f"{request.job}: no such job on {request.address}; `distgan submit --status` lists them") from None
        raise RunError(f"{request.address}: {_last_line(text)}") from None


def _request_of(client: Any, asked: Request) -> Request:
    """The request that a job was made from, as far as it can be made again from here."""
    info = _ask(asked, lambda: client.get_job_info(asked.job))
    try:
        made = json.loads((info.metadata or {})["distgan"])
        env = dict((info.runtime_env or {}).get("env_vars", {}))
        at_home = made["host"] == socket.gethostname() and (made["working_dir"] is None or Path(made["working_dir"]).is_dir())
        times = asked.resubmit if at_home else 0
        return Request(made["action"], made["settings"], asked.address, asked.job, made["working_dir"], env, times)
    except (KeyError, TypeError, ValueError):
        return Request("attach", address=asked.address, job=asked.job, resubmit=0)


# ---------------------------------------------------------------------------------------------------------------------
# Following


def _see_through(client: Any, request: Request, job: str) -> int:
    """Follow the job to its end, and those that are sent in its place."""
    first = job
    for attempt in range(request.resubmit + 1):
        try:
            info = follow(client, request.address, job)
        except KeyboardInterrupt:
            _tell(f"the job goes on; `distgan submit --attach {job}` follows it again, `distgan submit --stop {job}` ends it")
            return 130
        status = str(getattr(info.status, "value", info.status))
        if status == "SUCCEEDED":
            return 0
        if status == "STOPPED":
            _tell(f"{job}: stopped")
            return 130
        code = info.driver_exit_code or 1
        if attempt == request.resubmit or not worth_another_try(info):
            break
        job = f"{first}-{attempt + 2}"
        _tell(f"the workers never met, or their driver was lost: sent again as {job}, which goes on from the last checkpoint")
        submit(client, request, job)
    _tell(f"{job}: {explain(info)}")
    return int(code)


def follow(client: Any, address: str, job: str) -> Any:
    """Print the job's log as it grows until the job ends, through lost connections; returns Ray's description of the job."""
    shown, lost_since = 0, None
    while True:
        try:
            check_reachable(address)
            shown = asyncio.run(_stream(client, job, shown))
            info = client.get_job_info(job)
            lost_since = None
            if info.status.is_terminal():
                _show(client.get_job_logs(job)[shown:])
                return info
        except _Broken as broken:
            shown = broken.shown
        except (OSError, RuntimeError, ConfigError) as error:  # what aiohttp and requests raise derives from these, or is wrapped
            if "404" in str(error) or "does not exist" in str(error):
                raise ConfigError(f"{job}: no such job on {address}; `distgan submit --status` lists them") from None
            now = time.monotonic()
            if lost_since is None:
                lost_since = now
                _tell(f"the cluster does not answer; trying again for {PATIENCE_S / 60:.0f} min (the job does not need this command)")
            elif now - lost_since > PATIENCE_S:
                raise RunError(
                    f"{address}: no answer for {PATIENCE_S / 60:.0f} min; if the cluster comes back, `distgan submit --attach {job}`"
                ) from None
        time.sleep(1)


class _Broken(Exception):  # noqa: N818
    """The stream ended; so much of the log had been shown."""

    def __init__(self, shown: int) -> None:
        super().__init__()
        self.shown = shown


async def _stream(client: Any, job: str, shown: int, silence_s: float = 60.0) -> int:
    """Print the log from character `shown` on until it ends or is silent for a while; returns how much has been shown."""
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
            _show(new)
    except Exception as error:
        if max(shown, seen) > shown:
            raise _Broken(seen) from error
        raise ConnectionError(str(error)) from error
    finally:
        await lines.aclose()


def worth_another_try(info: Any) -> bool:
    """Whether a failed job failed for reasons that lie in its start: its workers never met, or its driver's node was lost."""
    return str(getattr(info.error_type, "value", info.error_type)) in _LOST_DRIVER or bool(_NEVER_MET.search(info.message or ""))


def explain(info: Any) -> str:
    """A failed job in one line: what failed and what to do."""
    message = info.message or ""
    if "No module named" in message and "distgan" in message.partition("No module named")[2][:20]:
        return "the cluster's nodes have no distgan; use an image that has it (docker/Dockerfile), or --working-dir with a checkout of it"
    if info.driver_exit_code == 127 or "python: not found" in message:
        return "the cluster's nodes find no `python`; start Ray there with the environment's bin folder in PATH"
    if info.driver_exit_code is not None:
        return f"failed with exit code {info.driver_exit_code}"
    if "untime" in message and "env" in message:
        return f"the job's environment could not be set up ({_last_line(message)}); a missing image or package is named in it"
    return f"failed before it started ({_last_line(message) or info.error_type})"


def _print_status(client: Any, job: str | None) -> int:
    request = Request("status", address="the cluster", job=job)
    jobs = [_ask(request, lambda: client.get_job_info(job))] if job else _ask(request, client.list_jobs)
    rows = [("JOB", "STATE", "STARTED", "FOR", "COMMAND")]
    for info in sorted((j for j in jobs if j.submission_id), key=lambda j: j.start_time or 0):
        start, end = (info.start_time or 0) / 1000, (info.end_time or time.time() * 1000) / 1000
        command = info.entrypoint.removeprefix("exec python -m ")
        clock = time.strftime("%Y-%m-%d %H:%M", time.localtime(start))
        rows.append((info.submission_id, str(getattr(info.status, "value", info.status)), clock, f"{end - start:.0f} s", command[:80]))
    if len(rows) == 1:
        print("no jobs")
        return 0
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 1 if job and rows[1][1] == "FAILED" else 0


# ---------------------------------------------------------------------------------------------------------------------
# Small things


def _split(words: list[str], mark: str) -> tuple[list[str], bool, list[str]]:
    return (words[: words.index(mark)], True, words[words.index(mark) + 1 :]) if mark in words else (words, False, [])


def _variables(typed: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in typed:
        name, equals, value = word.partition("=")
        if not equals and name not in os.environ:
            raise ConfigError(f"--env {name}: no such variable here; allowed: NAME=VALUE, or the name of one that is set")
        if re.search(r"SECRET|PASSWORD|TOKEN|KEY", name.upper()):
            _tell(f"--env {name}: who can open the dashboard can read it there; variables of the nodes (or a Kubernetes secret) are safer")
        found[name] = value if equals else os.environ[name]
    return found


def _inside(settings: list[str], working_dir: str | None) -> list[str]:
    """The settings with the names of files that are sent along made relative to the folder that is sent."""
    out = list(settings)
    for i, word in enumerate(settings):
        name, equals, value = word.partition("=")
        if name not in ("--config", "--search"):
            continue
        if not equals:
            if i + 1 == len(settings):
                raise ConfigError(f"{name}: needs one FILE.yaml")
            value = settings[i + 1]
        root = Path(working_dir or ".").resolve()
        path = Path(value).resolve()
        if not path.is_file():
            path = root / value
        if not path.is_file():
            raise ConfigError(f"{name} {value}: no such file")
        if working_dir is None or not path.is_relative_to(root):
            raise ConfigError(f"{name} {value}: is not sent to the cluster; allowed: a file inside --working-dir ({working_dir or 'none'})")
        inner = path.relative_to(root).as_posix()
        out[i if equals else i + 1] = f"{name}={inner}" if equals else inner
    return out


def _means_the_same_everywhere(place: str) -> bool:
    return "://" in place or PurePath(place).is_absolute()


def _first_line(error: object) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _tell(text: str) -> None:
    print(f"distgan: {text}", file=sys.stderr, flush=True)
