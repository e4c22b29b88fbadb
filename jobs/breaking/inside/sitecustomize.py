"""Loaded by every Python process of a run under `jobs/chaos.py`: files in $DISTGAN_CHAOS break things inside the
processes.

raise   the next training step of one worker raises, once
port    the workers' next process group gets a port that is taken, once
away    every access to storage fails while the file is there
full    every write to storage fails for lack of space while the file is there
"""

from __future__ import annotations

import errno
import importlib.abc
import importlib.machinery
import os
import sys

SWITCHES = os.environ.get("DISTGAN_CHAOS", "")


def on(name: str) -> bool:
    return os.path.exists(os.path.join(SWITCHES, name))


def once(name: str) -> bool:
    try:
        os.unlink(os.path.join(SWITCHES, name))
    except OSError:
        return False
    return True


def break_storage(module) -> None:
    folder = module.Folder

    def failing(action, writes):
        def wrapped(self, *arguments):
            if on("away"):
                raise OSError(errno.EIO, "the storage is away")
            if writes and on("full"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return action(self, *arguments)

        return wrapped

    for name in ("_read", "_write", "_list", "_remove"):
        setattr(folder, name, failing(getattr(folder, name), writes=name == "_write"))


def break_steps(module) -> None:
    step = module.TrainStep.__call__

    def wrapped(self, **options):
        if once("raise"):
            raise RuntimeError("chaos: this worker raises")
        return step(self, **options)

    module.TrainStep.__call__ = wrapped


def break_ports(module) -> None:
    import socket

    free, taken = module.free_port, []

    def wrapped():
        port = free()
        if once("port"):
            taken.append(socket.create_server(("", port)))
        return port

    module.free_port = wrapped


CHANGES = {
    "distgan.storage": break_storage,
    "distgan.training.loop": break_steps,
    "distgan.orchestration.network": break_ports,
}


class Finder(importlib.abc.MetaPathFinder):
    """Lets modules of distgan be found as ever, and changes them once they are loaded."""

    def find_spec(self, name, path=None, target=None):
        change = CHANGES.get(name)
        if change is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module):
                load(module)
                change(module)

            spec.loader.exec_module = exec_module
        return spec


if SWITCHES:
    sys.meta_path.insert(0, Finder())
