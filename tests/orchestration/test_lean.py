"""What a private cluster does without: the stand-in for raylet's agents, and questions that are answered late."""

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from distgan.orchestration import standby

AGENT = """
import os, socket, sys, threading
port = next(int(w.partition("=")[2]) for w in sys.argv if w.startswith("--my-port="))
with socket.create_server(("127.0.0.1", port)) as door:
    open(sys.argv[1], "a").write(f"{os.getpid()} {os.environ['RAY_RAYLET_PID']}\\n")
    while True:
        caller, _ = door.accept()
        words = b""
        while more := caller.recv(100000):
            words += more
        caller.sendall(words[::-1])
        caller.close()
"""
PARENT = """
import subprocess, sys, time
process = subprocess.Popen(sys.argv[1:])
print(process.pid, flush=True)
time.sleep(60)
"""


def until(what, seconds=15.0):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.02)
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def stand_in(tmp_path):
    """stand_in(names): (its parent, its pid); started like raylet starts an agent."""
    (tmp_path / "agent.py").write_text(AGENT)
    parents = []

    def start(names):
        agent = [
            sys.executable,
            str(tmp_path / "agent.py"),
            str(tmp_path / "log"),
            f"--session-dir={tmp_path}",
            "--node-id=ab",
        ]
        agent += ["--node-ip-address=127.0.0.1", "--my-port=0"]
        command = [sys.executable, "-c", PARENT, sys.executable, "-S", standby.__file__, names, "--", *agent]
        parents.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return parents[-1], int(parents[-1].stdout.readline())

    yield start
    for parent in parents:
        parent.kill()
        parent.wait()


def ask(port, words):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as caller:
        caller.sendall(words)
        caller.shutdown(socket.SHUT_WR)
        answer = b""
        while more := caller.recv(100000):
            answer += more
        return answer


def test_an_agent_starts_when_somebody_asks(stand_in, tmp_path):
    parent, pid = stand_in("some_port")
    port = int(until(lambda: (tmp_path / "some_port_ab").exists() and (tmp_path / "some_port_ab").read_text()))
    assert not (tmp_path / "log").exists()
    for words in (b"hello", os.urandom(300_000)):
        assert ask(port, words) == words[::-1]
    (agent, told), *more = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert (int(told), more) == (pid, [])  # one agent, whose parent it is that has to live
    parent.kill()
    until(lambda: not alive(pid) and not alive(int(agent)))


def test_without_a_service_nothing_starts(stand_in, tmp_path):
    _, pid = stand_in("one_port,other_port")
    until(lambda: (tmp_path / "other_port_ab").exists())
    assert [(tmp_path / f"{name}_port_ab").read_text() for name in ("one", "other")] == ["-1", "-1"]
    time.sleep(0.1)
    assert alive(pid)
    os.kill(pid, signal.SIGTERM)
    until(lambda: not alive(pid))
    assert not (tmp_path / "log").exists()


PRIVATE = """
import os
from pathlib import Path
from distgan.config import load_config
from distgan.orchestration.cluster import _children, cluster

def programs():
    below, found = [os.getpid()], []
    while below:
        pid = below.pop()
        below += _children(pid)
        found.append(Path(f"/proc/{pid}/cmdline").read_bytes())
    started = [words.split(b"\\0")[2] for words in found if words.count(b"\\0") > 2]
    agents = [words for words in found if words.startswith(b"ray::") and b"Agent" in words]
    return sum(program.endswith(b"/standby.py") for program in started), len(agents)

with cluster(load_config().ray):
    import ray
    word = ray.remote(lambda: os.environ.get("WORD"))
    print(ray.get(word.remote()), *programs())
    print(ray.get(word.options(runtime_env={"env_vars": {"WORD": "told"}}).remote()), *programs())
"""


def test_a_private_cluster_has_no_agents_until_they_are_wanted():
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", PRIVATE], env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout.split() == ["None", "2", "0", "told", "2", "1"], done.stderr[-3000:]


def test_a_worker_that_is_alone_answers_when_it_is_over(monkeypatch):
    """On Ray's own classes: the question how it is going waits, but for a while only, and tells the end and the error
    as without.
    """
    from ray.train.v2._internal.execution import context
    from ray.train.v2._internal.execution.worker_group import worker
    from ray.train.v2._internal.execution.worker_group.thread_runner import ThreadRunner

    from distgan.orchestration.lean import answer_slowly

    for failing in (False, True):
        over, go, runner = threading.Event(), threading.Event(), ThreadRunner()
        inside = SimpleNamespace(training_thread_runner=runner, result_queue=queue.Queue())
        here = SimpleNamespace(execution_context=inside, preemption_context=SimpleNamespace(preemption_info=None))
        monkeypatch.setattr(context, "get_train_context", lambda here=here: here)
        monkeypatch.setattr(worker, "get_train_context", lambda here=here: here)

        def train(over=over, go=go, failing=failing):
            assert answer_slowly(over, 0.5)
            go.wait(30)
            over.set()
            if failing:
                raise ValueError("broken")
            return 7

        runner.run(train)
        until(lambda runner=runner: "get_error" in vars(runner))
        actor, start = worker.RayTrainWorker(), time.monotonic()
        assert actor.poll_status().running
        assert time.monotonic() - start >= 0.45
        threading.Timer(0.2, go.set).start()
        start = time.monotonic()
        last = until(lambda actor=actor: next((s for s in [actor.poll_status()] if not s.running), None))
        assert time.monotonic() - start < 0.45
        assert (last.return_value, "broken" in str(last.error)) == ((None, True) if failing else (7, False))


def test_another_ray_is_asked_as_before(monkeypatch):
    from ray.train.v2._internal.execution import context

    from distgan.orchestration.lean import answer_slowly

    monkeypatch.setattr(context, "get_train_context", lambda: SimpleNamespace(execution_context=None))
    assert not answer_slowly(threading.Event(), 1)
