"""Jobs on a cluster: `distgan submit train ...` runs `distgan train ...` on the cluster's head node, with the code and
configs of here.

Ray's job server does the work: it keeps the upload, runs the command and keeps its log. What is added is what a person
would do: mistakes are found before anything is sent, the log is followed through broken connections, the job's exit
code becomes this command's, and a job whose workers never found each other is sent again under the same run name, which
goes on from its last checkpoint. The job lives on the cluster: this command may die, and `distgan submit --attach ID`
looks again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shlex
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from distgan.config import ConfigError, RunConfig, RunError
from distgan.kinds import get_kind
from distgan.orchestration.jobs.client import connect, find_address, first_line, last_line, tell
from distgan.orchestration.jobs.logs import explain, follow, worth_another_try
from distgan.orchestration.network import passed_on

LIMIT_MIB = 256
"""Largest upload. The head node keeps it in memory, and every node fetches it."""
STOP_WAIT_S = 120
"""Time a stopped job gets for its last checkpoint; Ray's own 3 s are too few."""
ACTIONS = ("attach", "status", "stop")


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
    """What the arguments ask for; `commands` are those that can be jobs. Raises ConfigError for what cannot be
    meant.
    """
    parser = argparse.ArgumentParser(
        "distgan submit",
        usage="distgan submit COMMAND [--address URL] [--working-dir DIR] [--env NAME[=VALUE]] ... [SETTINGS OF THE "
        "COMMAND]\n"
        "       distgan submit --attach ID | --stop ID | --status [ID] [--address URL]",
        description=(
            "Run a command as a job on a Ray cluster, follow its log and end with its exit code. Ctrl-C leaves the "
            "job running."
        ),
        epilog=f"Commands: {', '.join(commands)}. Settings may follow after -- too.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--address", help="the cluster's dashboard (default: $RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265)"
    )
    parser.add_argument(
        "--working-dir",
        default=".",
        help="folder that is sent, without what .gitignore and .rayignore name; none = nothing",
    )
    parser.add_argument("--job-id", help="the job's own name (default: made from command and time)")
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="variable for the job; without VALUE as it is here",
    )
    parser.add_argument(
        "--resubmit",
        type=int,
        default=2,
        help="times to send a job again whose workers never met (default: %(default)s)",
    )
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
        raise ConfigError(
            f"submit: what shall be done? allowed: one of {', '.join(commands)}, or one of --attach ID, --stop ID, "
            "--status [ID]"
        )
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
    check_out(action, settings)
    working_dir = None if options.working_dir in ("none", "") else options.working_dir
    if working_dir is not None and not Path(working_dir).is_dir():
        raise ConfigError(f"--working-dir {working_dir}: no such folder; allowed: a folder, or none to send nothing")
    env = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
    env |= passed_on() | _variables(options.env)
    return Request(
        action,
        _inside(settings, working_dir),
        find_address(options.address),
        options.job_id,
        working_dir,
        env,
        options.resubmit,
        not options.no_wait,
    )


def check_settings(config: RunConfig) -> None:
    """Raise ConfigError for settings that mean another place on the cluster than here, or a place that ends with the
    job.
    """
    if not _means_the_same_everywhere(config.storage):
        raise ConfigError(
            f"storage = {config.storage}: a relative path would lie in the job's temporary folder and be lost with it; "
            "allowed: the absolute path of a folder that all nodes share, s3://bucket/path or gs://bucket/path"
        )
    if not get_kind(config.data).knows(config.data.name) and not _means_the_same_everywhere(config.data.name):
        raise ConfigError(
            f"data.name = {config.data.name}: a job needs the absolute path that the nodes share, or a URI"
        )


def check_out(action: str, settings: Sequence[str]) -> None:
    """Raise ConfigError where a file that the command is to write would lie in the job's own folder."""
    for i, word in enumerate(settings):
        name, mark, value = word.partition("=")
        place = value if mark else next(iter(settings[i + 1 : i + 2]), "")
        if name == "--out" and place and not PurePath(place).is_absolute():
            raise ConfigError(
                f"--out {place}: submit {action} runs on the cluster, where a relative path would lie in the job's "
                "temporary folder and be lost with it; allowed: an absolute path that the nodes share, or `distgan "
                f"{action}` on a machine that reaches the storage"
            )


def run(request: Request) -> int:
    """Do what was asked for; returns the exit status: the job's own, 130 for one that was stopped or left running by
    Ctrl-C.
    """
    client = connect(request.address)
    if request.action == "status":
        return _print_status(client, request.job)
    if request.action == "stop":
        assert request.job is not None
        stopped = _ask(request, lambda: client.stop_job(request.job))
        tell(f"{request.job}: {'is being stopped, after a last checkpoint' if stopped else 'had ended already'}")
        return 0
    if request.action == "attach":
        assert request.job is not None
        return _see_through(client, _request_of(client, request), request.job)
    if request.working_dir is not None:
        check_size(Path(request.working_dir))
    job = submit(client, request, request.job)
    where = f"--address {request.address}"
    tell(
        f"job {job}; follow it with `distgan submit --attach {job} {where}`, end it with `distgan submit --stop {job} "
        f"{where}`"
    )
    if not request.wait:
        print(job)
        return 0
    return _see_through(client, request, job)


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
        largest = ", ".join(
            f"{name} ({size / 2**20:.0f} MiB)" for name, size in sorted(parts.items(), key=lambda p: -p[1])[:3]
        )
        raise ConfigError(
            f"--working-dir {folder}: {total / 2**20:.0f} MiB would be sent, most of it in {largest}; allowed: "
            f"{LIMIT_MIB} MiB. Name what the job does not need in .gitignore or .rayignore; data belongs into storage "
            "that the nodes share"
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
    again = {
        "action": request.action,
        "settings": request.settings,
        "working_dir": runtime_env.get("working_dir"),
        "host": socket.gethostname(),
    }
    name = job or f"distgan-{request.action}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    return str(
        _ask(
            request,
            # exec: signals meant for the job reach it, not a shell around it
            lambda: client.submit_job(
                entrypoint=f"exec {shlex.join(command)}",
                submission_id=name,
                runtime_env=runtime_env,
                metadata={"distgan": json.dumps(again)},
            ),
        )
    )


def _ask(request: Request, question: Any) -> Any:
    try:
        return question()
    except OSError as error:
        import errno

        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                "the disk is full here: the upload is packed in the temporary folder; make room or set TMPDIR to "
                "another disk"
            ) from None
        raise RunError(f"{request.address}: the cluster does not answer ({first_line(error)})") from None
    except Exception as error:
        text = str(error)
        if "No space left" in text:
            raise RunError(
                f"{request.address}: the head node's disk is full; make room in its temporary folder (/tmp/ray)"
            ) from None
        if "already exists" in text:
            raise ConfigError(
                f"--job-id {request.job}: there is such a job; allowed: a new name (the run goes on by its own --name)"
            ) from None
        if "404" in text or "does not exist" in text:
            raise ConfigError(
                f"{request.job}: no such job on {request.address}; `distgan submit --status` lists them"
            ) from None
        raise RunError(f"{request.address}: {last_line(text)}") from None


def _request_of(client: Any, asked: Request) -> Request:
    """The request that a job was made from, as far as it can be made again from here."""
    info = _ask(asked, lambda: client.get_job_info(asked.job))
    try:
        made = json.loads((info.metadata or {})["distgan"])
        env = dict((info.runtime_env or {}).get("env_vars", {}))
        at_home = made["host"] == socket.gethostname() and (
            made["working_dir"] is None or Path(made["working_dir"]).is_dir()
        )
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
            tell(
                f"the job goes on; `distgan submit --attach {job}` follows it again, `distgan submit --stop {job}` "
                "ends it"
            )
            return 130
        status = str(getattr(info.status, "value", info.status))
        if status == "SUCCEEDED":
            return 0
        if status == "STOPPED":
            tell(f"{job}: stopped")
            return 130
        code = info.driver_exit_code or 1
        if attempt == request.resubmit or not worth_another_try(info):
            break
        job = f"{first}-{attempt + 2}"
        tell(
            f"the workers never met, or their driver was lost: sent again as {job}, which goes on from the last "
            "checkpoint"
        )
        submit(client, request, job)
    tell(f"{job}: {explain(info)}")
    return int(code)


def _print_status(client: Any, job: str | None) -> int:
    request = Request("status", address="the cluster", job=job)
    jobs = [_ask(request, lambda: client.get_job_info(job))] if job else _ask(request, client.list_jobs)
    rows = [("JOB", "STATE", "STARTED", "FOR", "COMMAND")]
    for info in sorted((j for j in jobs if j.submission_id), key=lambda j: j.start_time or 0):
        start, end = (info.start_time or 0) / 1000, (info.end_time or time.time() * 1000) / 1000
        command = info.entrypoint.removeprefix("exec python -m ")
        clock = time.strftime("%Y-%m-%d %H:%M", time.localtime(start))
        rows.append(
            (
                info.submission_id,
                str(getattr(info.status, "value", info.status)),
                clock,
                f"{end - start:.0f} s",
                command[:80],
            )
        )
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
            raise ConfigError(
                f"--env {name}: no such variable here; allowed: NAME=VALUE, or the name of one that is set"
            )
        if re.search(r"SECRET|PASSWORD|TOKEN|KEY", name.upper()):
            tell(
                f"--env {name}: who can open the dashboard can read it there; variables of the nodes (or a Kubernetes "
                "secret) are safer"
            )
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
            raise ConfigError(
                f"{name} {value}: is not sent to the cluster; allowed: a file inside --working-dir "
                f"({working_dir or 'none'})"
            )
        inner = path.relative_to(root).as_posix()
        out[i if equals else i + 1] = f"{name}={inner}" if equals else inner
    return out


def _means_the_same_everywhere(place: str) -> bool:
    return "://" in place or PurePath(place).is_absolute()
