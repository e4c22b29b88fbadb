"""What was typed after `distgan submit`, checked as far as it can be before anything is sent."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from distgan.config import ConfigError, RunConfig, find_config, shipped_configs
from distgan.kinds import get_kind
from distgan.orchestration.jobs.client import find_address, notify
from distgan.orchestration.network import passed_on
from distgan.text import did_you_mean

STOP_WAIT_S = 120
"""Time a stopped job gets for its last checkpoint; Ray's own 3 s are too few."""
ACTIONS = ("attach", "status", "stop")


@dataclass(frozen=True)
class Request:
    """What `distgan submit` shall do."""

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
    own, mark, after = _split(list(arguments), "--")
    action = own.pop(0) if own and not own[0].startswith("-") else ""
    options, settings = _parser(commands).parse_known_args(own)
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
        hint = did_you_mean(action, commands)
        raise ConfigError(f"submit {action}: no such command; allowed: {', '.join(commands)}{hint}")
    if options.resubmit < 0:
        raise ConfigError(f"--resubmit {options.resubmit}: allowed: 0 or more")
    if not action:
        action, job = asked[0]
        if settings or mark:
            raise ConfigError(f"submit --{action}: takes no settings (found {' '.join(settings) or '--'})")
        if not job and action != "status":
            raise ConfigError(f"submit --{action}: needs a job's ID; `distgan submit --status` lists them")
        return Request(action, address=find_address(options.address), job=job or None, resubmit=options.resubmit)
    check_outputs(action, settings)
    working_dir = None if options.working_dir in ("none", "") else options.working_dir
    if working_dir is not None and not Path(working_dir).is_dir():
        raise ConfigError(f"--working-dir {working_dir}: no such folder; allowed: a folder, or none to send nothing")
    env = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)} | passed_on() | _variables(options.env)
    return Request(
        action,
        _relative_files(settings, working_dir),
        find_address(options.address),
        options.job_id,
        working_dir,
        env,
        options.resubmit,
        not options.no_wait,
    )


def _parser(commands: Sequence[str]) -> argparse.ArgumentParser:
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
    add = parser.add_argument
    add("--address", help="the cluster's dashboard (default: $RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265)")
    sent = "folder that is sent, without what .gitignore and .rayignore name; none = nothing"
    add("--working-dir", default=".", help=sent)
    add("--job-id", help="the job's own name (default: made from command and time)")
    variable = "variable for the job; without VALUE as it is here"
    add("--env", action="append", default=[], metavar="NAME[=VALUE]", help=variable)
    again = "times to send a job again whose workers found no rendezvous (default: %(default)s)"
    add("--resubmit", type=int, default=2, help=again)
    add("--no-wait", action="store_true", help="print the job's ID and do not follow it")
    add("--attach", metavar="ID", help="follow a job that was submitted before")
    add("--stop", metavar="ID", help=f"end a job; it has {STOP_WAIT_S} s for a last checkpoint")
    add("--status", metavar="ID", nargs="?", const="", help="state of one job, or of all")
    return parser


def check_settings(config: RunConfig) -> None:
    """Raise ConfigError for settings that mean another place on the cluster than here, or a place that ends with the
    job.
    """
    if not _is_shared(config.storage):
        raise ConfigError(
            f"storage = {config.storage}: a relative path would lie in the job's temporary folder and be lost with it; "
            "allowed: the absolute path of a folder that all nodes share, s3://bucket/path or gs://bucket/path"
        )
    if not get_kind(config.data).knows(config.data.name) and not _is_shared(config.data.name):
        raise ConfigError(
            f"data.name = {config.data.name}: a job needs the absolute path that the nodes share, or a URI"
        )

    where = config.finetune
    if where and not _is_shared(where) and (where[0] in ".~" or os.path.exists(where)):
        raise ConfigError(
            f"finetune = {where}: a relative path means another place on the cluster; allowed: the name of a run in "
            "the storage, the absolute path that the nodes share, or a URI"
        )


def check_outputs(action: str, settings: Sequence[str]) -> None:
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


def _is_shared(place: str) -> bool:
    """Whether a place can mean the same on every node."""
    return "://" in place or PurePath(place).is_absolute()


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
            notify(
                f"--env {name}: who can open the dashboard can read it there; variables of the nodes (or a Kubernetes "
                "secret) are safer"
            )
        found[name] = value if equals else os.environ[name]
    return found


def _relative_files(settings: list[str], working_dir: str | None) -> list[str]:
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
        if find_config(value) == shipped_configs().get(value):  # the cluster has it too
            continue
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
