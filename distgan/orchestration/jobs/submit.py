"""Jobs on a cluster: `distgan submit train ...` runs `distgan train ...` on the cluster's head node, with the code and
configs of here.

Ray's job server does the work: it keeps the upload, runs the command and keeps its log. What is added is what a person
would do: mistakes are found before anything is sent, the log is followed through broken connections, the job's exit
code becomes this command's, and a job whose workers found no rendezvous is sent again under the same run name, which
goes on from its last checkpoint. The job lives on the cluster: this command may die, and `distgan submit --attach ID`
looks again.
"""

from __future__ import annotations

import json
import secrets
import shlex
import socket
import time
from pathlib import Path
from typing import Any

from distgan.orchestration.jobs.client import call, connect, notify
from distgan.orchestration.jobs.job_logs import explain, follow, is_retryable
from distgan.orchestration.jobs.request import Request
from distgan.orchestration.jobs.upload import check_size
from distgan.text import command, duration, table


def run(request: Request) -> int:
    """Do what was asked for; returns the exit status: the job's own, 130 for one that was stopped or left running by
    Ctrl-C.
    """
    client, job = connect(request.address), request.job
    if request.action == "status":
        return _print_status(client, request)
    if request.action == "stop":
        stopped = call(lambda: client.stop_job(job), request.address, job)
        notify(f"{job}: {'is being stopped, after a last checkpoint' if stopped else 'had ended already'}")
        return 0
    if request.action == "attach":
        assert job is not None
        return _follow_to_end(client, _made_from(client, request), job)
    if request.working_dir is not None:
        check_size(Path(request.working_dir))
    job = submit(client, request, job)
    attach, stop = (_about(request, action, job) for action in ("attach", "stop"))
    notify(f"job {job}; follow it with `{attach}`, end it with `{stop}`")
    if not request.wait:
        print(job)
        return 0
    return _follow_to_end(client, request, job)


def submit(client: Any, request: Request, job: str | None = None) -> str:
    """Send the code and start the job; returns its ID. Raises ConfigError or RunError with one line."""
    command = ["python", "-m", "distgan", request.action, *request.settings]
    runtime_env: dict[str, Any] = {"env_vars": request.env}
    if request.working_dir is not None:
        runtime_env["working_dir"] = str(Path(request.working_dir).absolute())
    made_from = {
        "action": request.action,
        "settings": request.settings,
        "working_dir": runtime_env.get("working_dir"),
        "host": socket.gethostname(),
    }
    name = job or f"distgan-{request.action}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    return call(
        lambda: str(
            client.submit_job(
                entrypoint=f"exec {shlex.join(command)}",  # signals meant for the job reach it, not a shell around it
                submission_id=name,
                runtime_env=runtime_env,
                metadata={"distgan": json.dumps(made_from)},
            )
        ),
        request.address,
        job,
    )


def _made_from(client: Any, asked: Request) -> Request:
    """The request that a job was made from, as far as it can be made again from here."""
    info = call(lambda: client.get_job_info(asked.job), asked.address, asked.job)
    try:
        made = json.loads((info.metadata or {})["distgan"])
        env = dict((info.runtime_env or {}).get("env_vars", {}))
        folder = made["working_dir"]
        is_here = made["host"] == socket.gethostname() and (folder is None or Path(folder).is_dir())
        times = asked.resubmit if is_here else 0
        return Request(made["action"], made["settings"], asked.address, asked.job, folder, env, times)
    except (KeyError, TypeError, ValueError):
        return Request("attach", address=asked.address, job=asked.job, resubmit=0)


def _about(request: Request, action: str, job: str) -> str:
    return command("distgan", "submit", f"--{action}", job, "--address", request.address)


def _follow_to_end(client: Any, request: Request, job: str) -> int:
    """Follow the job to its end, and those that are sent in its place; returns the exit status."""
    first = job
    for attempt in range(request.resubmit + 1):
        try:
            info = follow(client, request.address, job)
        except KeyboardInterrupt:
            attach, stop = (_about(request, action, job) for action in ("attach", "stop"))
            notify(f"the job goes on; `{attach}` follows it again, `{stop}` ends it")
            return 130
        status = _status(info)
        if status == "SUCCEEDED":
            return 0
        if status == "STOPPED":
            notify(f"{job}: stopped")
            return 130
        if attempt == request.resubmit or not is_retryable(info):
            break
        job = f"{first}-{attempt + 2}"
        notify(
            f"the workers found no rendezvous, or their driver was lost: sent again as {job}, which goes on from the "
            "last checkpoint"
        )
        submit(client, request, job)
    notify(f"{job}: {explain(info)}")
    return int(info.driver_exit_code or 1)


def _print_status(client: Any, request: Request) -> int:
    job = request.job
    if job:
        jobs = [call(lambda: client.get_job_info(job), request.address, job)]
    else:
        jobs = [info for info in call(client.list_jobs, request.address, None) if info.submission_id]
    if not jobs:
        print("no jobs")
        return 0
    rows = [("JOB", "STATE", "STARTED", "FOR", "COMMAND")]
    for info in sorted(jobs, key=lambda info: info.start_time or 0):
        start, end = (info.start_time or 0) / 1000, (info.end_time or time.time() * 1000) / 1000
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(start))
        command = info.entrypoint.removeprefix("exec python -m ")[:80]
        rows.append((info.submission_id, _status(info), started, duration(end - start), command))
    print(table(rows))
    return 1 if job and _status(jobs[0]) == "FAILED" else 0


def _status(info: Any) -> str:
    return str(getattr(info.status, "value", info.status))
