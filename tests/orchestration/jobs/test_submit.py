"""Jobs: what is refused before anything is sent, what is sent, how a log is followed, when a job is sent again. No
cluster needed.
"""

from __future__ import annotations

import errno
import http.server
import io
import json
import socket
import threading
import zipfile
from types import SimpleNamespace

import pytest

from distgan import cli
from distgan.config import ConfigError, RunError, load_config
from distgan.orchestration.auth import use_token
from distgan.orchestration.jobs import job_logs, submit, upload
from distgan.orchestration.jobs.request import Request, check_settings, read_request

COMMANDS = ("train", "tune", "evaluate", "sample", "export")


@pytest.fixture(autouse=True)
def no_token(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(job_logs.time, "sleep", lambda seconds: None)


def details(status="SUCCEEDED", message="", code=None, error_type=None, **more):
    state = SimpleNamespace(value=status, is_terminal=lambda: status in ("SUCCEEDED", "FAILED", "STOPPED"))
    return SimpleNamespace(status=state, message=message, driver_exit_code=code, error_type=error_type, **more)


class Server:
    """Ray's client as far as it is used, with jobs that end as told."""

    def __init__(self, *ends, log="hello\nworld\n", breaks=0):
        self.ends, self.log, self.breaks = list(ends), log, breaks
        self.submitted: list[dict] = []

    def submit_job(self, **job):
        self.submitted.append(job)
        return job["submission_id"]

    def get_job_info(self, job):
        return self.ends[max(0, len(self.submitted) - 1)]

    def get_job_logs(self, job):
        return self.log

    async def tail_job_logs(self, job):
        if self.breaks:
            self.breaks -= 1
            yield self.log[: len(self.log) // 2]
            raise RuntimeError("WebSocket connection closed unexpectedly")
        yield self.log


@pytest.fixture
def server(monkeypatch):
    def use(made):
        monkeypatch.setattr(submit, "connect", lambda address: made)
        monkeypatch.setattr(job_logs, "check_reachable", lambda address: None)
        return made

    return use


# What is typed


def test_settings_of_the_command_and_of_submit_may_be_mixed(tmp_path, monkeypatch):
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "laptop0")
    words = [
        "train",
        "--kimg",
        "5",
        "--address",
        "h",
        "--env",
        "A=b=c",
        "--working-dir",
        str(tmp_path),
        "--",
        "--workers",
        "2",
    ]
    request = read_request(words, COMMANDS)
    assert request.action == "train"
    assert request.settings == ["--kimg", "5", "--workers", "2"]
    assert request.address == "http://h:8265"
    assert request.env["A"] == "b=c"
    assert (
        request.env["NCCL_DEBUG"] == "INFO"
    )  # what tunes the network travels, the name of an interface of here does not
    assert "NCCL_SOCKET_IFNAME" not in request.env


@pytest.mark.parametrize("words", [["--stop", "j1"], ["stop", "j1"]])
def test_both_spellings_of_an_action(words):
    request = read_request([*words, "--address", "http://h:1"], COMMANDS)
    assert (request.action, request.job, request.address) == ("stop", "j1", "http://h:1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "what shall be done"),
        (["trian"], "trian: no such command; allowed: train"),
        (["--attach", "a", "--stop", "b"], "what shall be done"),
        (["stop"], "needs a job's ID"),
        (["--stop", "a", "--kimg", "3"], "takes no settings"),
        (["train", "--working-dir", "/nowhere"], "--working-dir /nowhere: no such folder"),
        (["train", "--address", "ftp://h"], "--address ftp://h: allowed: http://HOST:8265"),
        (["train", "--address", "h:port"], "allowed: http://HOST:8265"),
        (["train", "--env", "NOT_SET_ANYWHERE"], "no such variable here"),
        (["train", "--resubmit", "-1"], "--resubmit -1: allowed: 0 or more"),
        (["train", "--config", "missing.yaml"], "missing.yaml: no such file"),
        (["sample", "mnist", "--out", "grid.png"], "--out grid.png: submit sample runs on the cluster"),
        (["export", "mnist", "--out=g.onnx"], "--out g.onnx: submit export runs on the cluster"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        read_request(words, COMMANDS)


def test_a_file_on_a_shared_path_can_be_asked_for():
    assert read_request(["sample", "mnist", "--out", "/shared/grid.png"], COMMANDS).settings[-1] == "/shared/grid.png"


def test_a_config_is_named_as_the_job_will_find_it(tmp_path, monkeypatch):
    (tmp_path / "code" / "configs").mkdir(parents=True)
    (tmp_path / "code" / "configs" / "a.yaml").write_text("kimg: 1\n")
    (tmp_path / "b.yaml").write_text("kimg: 1\n")
    monkeypatch.chdir(tmp_path)
    words = ["train", "--working-dir", "code", "--config", "code/configs/a.yaml", "--search=code/configs/a.yaml"]
    assert read_request(words, COMMANDS).settings == ["--config", "configs/a.yaml", "--search=configs/a.yaml"]
    with pytest.raises(ConfigError, match="not sent to the cluster"):
        read_request(["train", "--working-dir", "code", "--config", "b.yaml"], COMMANDS)


@pytest.mark.parametrize(
    ("setting", "value"), [("storage", "./runs"), ("data.name", "photos"), ("finetune", "./runs/first")]
)
def test_places_that_end_with_the_job_are_refused(setting, value):
    good = {"storage": "/shared/runs"}
    check_settings(load_config(overrides=good))
    with pytest.raises(ConfigError, match=setting):
        check_settings(load_config(overrides={**good, setting: value}))
    for source in ("first", "search/trials/007", "/shared/runs/first", "s3://bucket/runs/first"):
        check_settings(load_config(overrides={**good, "finetune": source}))


def test_settings_are_checked_before_the_cluster_is_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["submit", "train", "--kimgg", "3", "--storage", "/shared"]) == 2
    assert "did you mean kimg" in capsys.readouterr().err


# The way to the cluster


def test_a_space_is_checked_before_the_cluster_is_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text("g_lrr: {loguniform: [1.0e-4, 1.0e-2]}\n")
    assert cli.main(["submit", "tune", "--search", "space.yaml", "--storage", "/shared"]) == 2
    assert "did you mean g_lr" in capsys.readouterr().err


def test_an_address_where_nobody_listens(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert cli.main(["submit", "--status", "--address", f"http://127.0.0.1:{port}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"http://127.0.0.1:{port}: cannot be reached" in said


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (
            401,
            "Unauthorized: Missing authentication token",
            "asks for a token and none was found; export RAY_AUTH_MODE=token",
        ),
        (403, "Forbidden: Invalid authentication token", "refuses this token"),
        (200, "<html>some other server</html>", "not the job server of a Ray cluster"),
    ],
)
def test_what_a_server_answers_becomes_one_line(status, body, said, capsys):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        code = cli.main(["submit", "--status", "--address", f"http://127.0.0.1:{web.server_port}"])
        web.shutdown()
    out = capsys.readouterr().err
    assert code == 2
    assert out.count("\n") == 1
    assert said in out


def test_a_token_at_hand_is_used(monkeypatch, tmp_path):
    (tmp_path / "token").write_text("secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    use_token()
    import os

    assert os.environ.pop("RAY_AUTH_MODE") == "token"


# What is sent


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 100)


def test_gitignore_is_respected_and_the_size_checked(tmp_path, monkeypatch):
    (tmp_path / ".gitignore").write_text("/runs/\n*.log\n")
    fill(tmp_path, "code.py", "big.log", "runs/a.bin", ".git/objects/x", "keep/data.bin")
    names = {p.relative_to(tmp_path).as_posix() for p in upload.packed_files(tmp_path)}
    assert names == {".gitignore", "code.py", "keep/data.bin"}
    assert upload.check_size(tmp_path) == 200 + len("/runs/\n*.log\n")
    with (tmp_path / "keep" / "data.bin").open("wb") as file:
        file.truncate((upload.LIMIT_MIB + 1) * 2**20)
    with pytest.raises(ConfigError, match=r"257 MiB would be sent, most of it in keep \(257 MiB\)"):
        upload.check_size(tmp_path)


class JobServer(http.server.BaseHTTPRequestHandler):
    """As much of Ray's job server as takes an upload and starts a job; keeps what was uploaded."""

    uploaded: bytes

    def answer(self, status, **body):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def body(self):
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(parts)

    def do_GET(self):
        if self.path == "/api/version":
            self.answer(200, version="4", ray_version="2.60.0", ray_commit="", session_name="")
        else:
            self.answer(404)

    def do_PUT(self):
        type(self).uploaded = self.body()
        self.answer(200)

    def do_POST(self):
        self.body()
        self.answer(200, job_id="k", submission_id="k")

    def log_message(self, *args):
        pass


def test_what_is_counted_is_what_ray_sends(tmp_path, monkeypatch):
    """Ray's own client packs the folder and sends it to a server that keeps it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "code"
    fill(folder, "a.py", "b.log", "logs/a.log", "logs/keep.log", "runs/x.bin", "deep/runs/y.bin", "deep/er/z.tmp")
    fill(folder, ".git/objects/x", ".venv/bin/python", "deep/venv/x", "deep/__pycache__/a.pyc", "deep/.hidden")
    fill(
        folder,
        "build/a",
        "build/b/c",
        "deep/build/d",
        "data/x.npy",
        "data/y.png",
        "deep/own.bin",
        "own.bin",
        "ö.py",
        "#x",
    )
    (folder / ".gitignore").write_text("# a comment\n\n*.log\n!keep.log\n/runs/\nbuild\n**/er/*.tmp\n\\#x\n")
    (folder / ".rayignore").write_text("data/*\n!data/y.png\n")
    (folder / "deep" / ".gitignore").write_text("/own.bin\n!build\n")
    (folder / "link.py").symlink_to(folder / "a.py")
    (folder / "linked").symlink_to(folder / "deep")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), JobServer) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        request = Request("train", [], f"http://127.0.0.1:{web.server_port}", "k", str(folder), wait=False)
        code = submit.run(request)
        web.shutdown()
    assert code == 0
    with zipfile.ZipFile(io.BytesIO(JobServer.uploaded)) as archive:
        sent = {i.filename: i.file_size for i in archive.infolist() if not i.is_dir()}
    counted = {p.relative_to(folder).as_posix(): p.stat().st_size for p in upload.packed_files(folder)}
    assert counted == sent
    assert {"logs/keep.log", "data/y.png", "own.bin", "linked/.hidden"} <= counted.keys()
    assert not {"b.log", "runs/x.bin", "deep/own.bin", ".git/objects/x", "deep/build/d"} & counted.keys()


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), RunError, "the disk is full here"),
        (
            RuntimeError("Request failed with status code 500: OSError: No space left on device"),
            RunError,
            "head node's disk is full",
        ),
        (
            RuntimeError("status code 500: ValueError: Job with submission_id k1 already exists"),
            ConfigError,
            "there is such a job",
        ),
        (ConnectionResetError("reset"), RunError, "does not answer"),
    ],
)
def test_a_failed_submission_is_one_line(error, kind, said, server, tmp_path):
    made = server(Server(details()))

    def fail(**job):
        raise error

    made.submit_job = fail
    request = Request("train", [], "http://h:8265", "k1", str(tmp_path))
    with pytest.raises(kind, match=said) as caught:
        submit.run(request)
    assert "\n" not in str(caught.value)


def test_the_job_runs_the_command_with_its_settings(server, tmp_path, capsys):
    made = server(Server(details()))
    assert submit.run(Request("train", ["--name", "a b"], "http://h:8265", "k1", str(tmp_path), {"A": "b"})) == 0
    (job,) = made.submitted
    assert job["entrypoint"] == "exec python -m distgan train --name 'a b'"
    assert job["runtime_env"] == {"env_vars": {"A": "b"}, "working_dir": str(tmp_path)}
    assert capsys.readouterr().out == made.log


# Following


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (details("SUCCEEDED"), 0),
        (details("FAILED", "boom", 3), 3),
        (details("STOPPED"), 130),
        (details("FAILED", "runtime_env setup failed", None), 1),
    ],
)
def test_the_exit_code_is_the_jobs(end, code, server):
    made = server(Server(end))
    assert submit.run(Request("train", working_dir=None)) == code
    assert len(made.submitted) == 1


def test_a_broken_connection_shows_every_line_once(server, capsys):
    server(Server(details(), log="".join(f"line {i}\n" for i in range(50)), breaks=2))
    assert submit.run(Request("train", working_dir=None)) == 0
    assert capsys.readouterr().out.splitlines() == [f"line {i}" for i in range(50)]


@pytest.mark.parametrize(
    "message",
    [
        "worker 0: DistNetworkError: The client socket has timed out after 60000ms while trying to connect to "
        "(10.0.0.2, 4711)",
        "worker 1: RuntimeError: Gloo connectFullMesh failed with [...] no error",
        "WorkerGroupStartupTimeoutError: The worker group startup timed out after 60.0 seconds",
    ],
)
def test_a_job_whose_workers_found_no_rendezvous_is_sent_again(message, server):
    made = server(Server(details("FAILED", message, 1), details()))
    assert submit.run(Request("train", ["--name", "same"], job="k", working_dir=None)) == 0
    assert [job["submission_id"] for job in made.submitted] == ["k", "k-2"]
    assert made.submitted[0]["entrypoint"] == made.submitted[1]["entrypoint"]


def test_it_is_not_sent_again_for_ever_nor_for_other_failures(server):
    never = details("FAILED", "Gloo connectFullMesh failed", 1)
    made = server(Server(*[never] * 9))
    assert submit.run(Request("train", working_dir=None, resubmit=2)) == 1
    assert len(made.submitted) == 3
    made = server(Server(details("FAILED", "ConfigError: kimg = -1", 2)))
    assert submit.run(Request("train", working_dir=None, resubmit=2)) == 2
    assert len(made.submitted) == 1


def test_attaching_follows_and_can_send_again(server, capsys):
    submitted = server(Server(details()))
    submit.run(Request("train", ["--name", "same"], job="k", working_dir=None, env={"A": "b"}))
    again = {"metadata": submitted.submitted[0]["metadata"], "runtime_env": {"env_vars": {"A": "b"}}}
    made = server(Server(details("FAILED", "connectFullMesh", 1, **again)))
    made.ends.append(details("FAILED", "connectFullMesh", 1, **again))
    made.submitted.append({"submission_id": "k"})
    made.ends = [made.ends[0], details()]
    assert submit.run(Request("attach", job="k", resubmit=1)) == 0
    assert made.submitted[1]["submission_id"] == "k-2"
    assert made.submitted[1]["runtime_env"] == {"env_vars": {"A": "b"}}
    assert json.loads(made.submitted[1]["metadata"]["distgan"])["settings"] == ["--name", "same"]


def test_ctrl_c_leaves_the_job_running(server, monkeypatch, capsys):
    server(Server(details()))

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(submit, "follow", interrupt)
    assert submit.run(Request("train", job="k", working_dir=None)) == 130
    assert "the job goes on; `distgan submit --attach k --address " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (details("FAILED", "python: No module named distgan", 1), "have no distgan; use an image that has it"),
        (details("FAILED", "sh: 1: exec: python: not found", 127), "find no `python`"),
        (details("FAILED", "x", 4), "failed with exit code 4"),
        (
            details("FAILED", "Failed to set up runtime environment.\nimage quay.io/none not found"),
            "image quay.io/none not found",
        ),
    ],
)
def test_a_failure_is_explained_in_a_line(info, said):
    assert said in job_logs.explain(info)
