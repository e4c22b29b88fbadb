"""The stand-in for raylet's agents: alone with a small agent, and on a private cluster that is asked for a runtime environment."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

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
        agent = [sys.executable, str(tmp_path / "agent.py"), str(tmp_path / "log"), f"--session-dir={tmp_path}", "--node-id=ab"]
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
    done = subprocess.run([sys.executable, "-c", PRIVATE], env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.split() == ["None", "2", "0", "told", "2", "1"], done.stderr[-3000:]
