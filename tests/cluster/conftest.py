"""Three hosts on one machine: network namespaces behind a bridge, each with its own address, interfaces and Ray node.

Everything of a host runs in its namespace, so that a host is ended by ending exactly the processes in there. (`ray
stop` would end every Ray on the machine.)
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

RAY = Path(sys.executable).with_name("ray")
HEAD, WORKERS = "a", ("b", "c")
ADDRESSES = {"a": "10.77.0.1", "b": "10.77.0.2", "c": "10.77.0.3"}
# So that the head notices a lost node within seconds
QUICK = {"initial_delay_ms": "1000", "period_ms": "1000", "timeout_ms": "3000", "failure_threshold": "4"}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def can_make_hosts() -> bool:
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"distgan-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return made


class Lab:
    """The three hosts: `a` has the head and no CPU to give away, `b` and `c` one CPU each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shared = folder, folder / "shared"
        self.shared.mkdir()
        self.tag = f"dg{os.getpid() % 100000}"
        self.bridge = f"{self.tag}br"
        self.url = f"http://{ADDRESSES[HEAD]}:8265"
        self.token = folder / "token"
        self.token.touch(mode=0o600)
        self.token.write_text(secrets.token_hex(16))
        home = folder / "home"
        home.mkdir()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "DISTGAN_"))}
        self.env = kept | {
            "HOME": str(home),
            "PATH": f"{RAY.parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "DISTGAN_CACHE": str(folder / "cache"),
            **{f"RAY_health_check_{name}": value for name, value in QUICK.items()},
        }

    def up(self) -> None:
        ip("link", "add", self.bridge, "type", "bridge")
        ip("link", "set", self.bridge, "up")
        for host, address in ADDRESSES.items():
            space, cable = self.space(host), f"{self.tag}v{host}"
            ip("netns", "add", space)
            ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", cable, "master", self.bridge, "up")
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
        self.start(HEAD)
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.start, WORKERS))

    def down(self) -> None:
        for host in ADDRESSES:
            self.kill(host)
        for host in ADDRESSES:
            subprocess.run(["ip", "netns", "del", self.space(host)], capture_output=True)
            subprocess.run(["ip", "link", "del", f"{self.tag}v{host}"], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)

    def space(self, host: str) -> str:
        return f"{self.tag}{host}"

    def start(self, host: str) -> None:
        """Start the host's Ray node, as a person would on a new machine."""
        address = ADDRESSES[host]
        common = [f"--node-ip-address={address}", f"--temp-dir={self.folder}/{host}", "--object-store-memory=80000000"]
        if host == HEAD:
            role = ["--head", "--port=6379", "--num-cpus=0", f"--dashboard-host={address}", "--dashboard-port=8265"]
        else:
            role = [f"--address={ADDRESSES[HEAD]}:6379", "--num-cpus=1"]
        for _ in range(3):  # on a busy machine a start can take longer than Ray waits
            done = self.run(host, str(RAY), "start", *role, *common, "--metrics-export-port=8090")
            if done.returncode == 0:
                return
            self.kill(host)
        raise AssertionError(done.stdout + done.stderr)

    def run(
        self, host: str, *command: str, env: Mapping[str, str | None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command on a host, to its end; variables that are None in `env` are taken away."""
        variables = {k: v for k, v in {**self.env, **(env or {})}.items() if v is not None}
        return subprocess.run(
            self._on(host, command), env=variables, capture_output=True, text=True, timeout=200, cwd=self.shared
        )

    def distgan(self, *words: str, env: Mapping[str, str | None] | None = None) -> subprocess.CompletedProcess[str]:
        return self.run(HEAD, sys.executable, "-m", "distgan", *words, env=env)

    def begin(self, *words: str, log: Path) -> subprocess.Popen[bytes]:
        """`distgan ...` on the head's host, left running; its output goes to `log`."""
        with log.open("wb") as out:
            command = self._on(HEAD, (sys.executable, "-m", "distgan", *words))
            return subprocess.Popen(command, env=self.env, stdout=out, stderr=subprocess.STDOUT, cwd=self.shared)

    def _on(self, host: str, command: tuple[str, ...]) -> list[str]:
        return ["ip", "netns", "exec", self.space(host), *command]

    def cut(self, host: str) -> None:
        ip("link", "set", f"{self.tag}v{host}", "down")

    def mend(self, host: str) -> None:
        ip("link", "set", f"{self.tag}v{host}", "up")

    def kill(self, host: str) -> None:
        """End every process of a host at once, as a power cut does."""
        for _ in range(20):
            found = subprocess.run(
                ["ip", "netns", "pids", self.space(host)], capture_output=True, text=True
            ).stdout.split()
            if not found:
                return
            for pid in found:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if item.get_closest_marker("cluster")]
    if here and not can_make_hosts():
        for item in here:
            item.add_marker(pytest.mark.skip(reason="needs root and network namespaces"))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    # not pytest's own folder: the paths of Ray's sockets must be short
    with tempfile.TemporaryDirectory(prefix="dg", dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = Lab(Path(folder))
        try:
            made.up()
            yield made
        finally:
            made.down()
