"""Stands in for an agent of raylet's that nobody may ever ask: `python standby.py PORT_NAME[,PORT_NAME] -- the agent's
own command`.

Each agent is a Python process that imports Ray when raylet starts, beside the workers, and looks around several times a
second from then on. raylet itself waits for the files alone in which an agent tells its ports. With one name this
program listens there, starts the agent when somebody connects, and passes on what is said; with several, as Ray's
minimal agent does, it tells that there is no service. It imports nothing but the standard library, and ends with
raylet.
"""

import os
import select
import socket
import subprocess
import sys
import threading
import time

LOOK_S = 1.0
START_S = 60.0


def main(names: list[str], agent: list[str]) -> None:
    """Until raylet, which has started this process, is gone."""
    raylet, options = os.getppid(), dict(word.partition("=")[::2] for word in agent)
    place, node = options["--session-dir"], options["--node-id"]
    door = socket.create_server((options["--node-ip-address"], 0)) if len(names) == 1 else None
    for name in names:
        tell(os.path.join(place, f"{name}_{node}"), door.getsockname()[1] if door else -1)
    started: list[tuple[subprocess.Popen[bytes], int]] = []
    while os.getppid() == raylet:
        if door is None:
            time.sleep(LOOK_S)
        elif select.select([door], [], [], LOOK_S)[0]:
            if not started:
                started.append(start(agent, options["--node-ip-address"]))
            threading.Thread(
                target=serve, args=(door.accept()[0], options["--node-ip-address"], *started[0]), daemon=True
            ).start()
    for process, _ in started:
        process.kill()


def tell(path: str, port: int) -> None:
    """The file in which raylet looks for a port: whole or absent."""
    with open(f"{path}.new", "w") as file:
        file.write(str(port))
    os.rename(f"{path}.new", path)


def start(agent: list[str], address: str) -> tuple[subprocess.Popen[bytes], int]:
    """The agent itself, at a port that is free; and that port."""
    with socket.create_server((address, 0)) as probe:
        port = probe.getsockname()[1]
    command = [word if not word.endswith("-port=0") else f"{word[:-1]}{port}" for word in agent]
    return subprocess.Popen(
        command, env={**os.environ, "RAY_RAYLET_PID": str(os.getpid())}
    ), port  # it ends with its parent


def serve(caller: socket.socket, address: str, agent: "subprocess.Popen[bytes]", port: int) -> None:
    """Pass on what the caller and the agent say to each other. A caller whom no agent answers is told so by the end of
    the connection.
    """
    with caller:
        until = time.monotonic() + START_S
        while True:
            try:
                with socket.create_connection((address, port)) as behind:
                    back = threading.Thread(target=copy, args=(behind, caller), daemon=True)
                    back.start()
                    copy(caller, behind)
                    back.join()
                    return
            except ConnectionRefusedError:
                if agent.poll() is not None or time.monotonic() > until:
                    return
                time.sleep(0.05)


def copy(one: socket.socket, other: socket.socket) -> None:
    """All that `one` says, to `other`."""
    try:
        while words := one.recv(65536):
            other.sendall(words)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        return


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[3:])
