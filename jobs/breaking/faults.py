"""Faults. Each breaks something of a run and returns how that shows, as a question to be asked until the answer is
yes.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

from breaking.command import Command

Noticed = Callable[[], bool]


def _gone(run: Command, pids: list[int]) -> Noticed:
    return lambda: not set(pids) & {p.pid for p in (run.look(closely=False), run.ours)[1].values()}


def _ended(run: Command) -> Noticed:
    return lambda: run.driver is None or run.driver.poll() is not None


def _kill(pids: list[int], number: int = signal.SIGKILL) -> None:
    if not pids:
        raise RuntimeError("no such process: the fault could not be made")
    for pid in pids:
        os.kill(pid, number)


def worker_killed(run: Command, pick: random.Random) -> Noticed:
    workers = run.workers()
    _kill([pick.choice(workers)] if workers else [])
    return _gone(run, workers)


def worker_raises(run: Command, pick: random.Random) -> Noticed:
    workers = run.workers()
    run.switch("raise")
    return _gone(run, workers)


def rendezvous_breaks(run: Command, pick: random.Random) -> Noticed:
    """The workers' process group cannot be formed at the next start, which a killed worker brings about."""
    run.switch("rendezvous")
    workers = run.workers()
    _kill([pick.choice(workers)] if workers else [])
    return lambda: not (run.switches / "rendezvous").exists()


def raylet_killed(run: Command, pick: random.Random) -> Noticed:
    _kill(run.pids("raylet/raylet "))
    return _ended(run)


def gcs_killed(run: Command, pick: random.Random) -> Noticed:
    _kill(run.pids("gcs/gcs_server "))
    return _ended(run)


def driver_killed(run: Command, pick: random.Random) -> Noticed:
    assert run.driver is not None
    run.driver.kill()
    return _ended(run)


def driver_terminated(run: Command, pick: random.Random) -> Noticed:
    assert run.driver is not None
    run.driver.terminate()
    return _ended(run)


def interrupted(run: Command, pick: random.Random) -> Noticed:
    """Ctrl-C: the whole process group of the terminal gets it."""
    assert run.driver is not None
    os.killpg(run.driver.pid, signal.SIGINT)
    return _ended(run)


def everything_terminated(run: Command, pick: random.Random) -> Noticed:
    """As a service manager ends a unit: SIGTERM to every process at once."""
    _kill([p.pid for p in (run.look(), run.ours)[1].values()], signal.SIGTERM)
    return _ended(run)


def storage_away(run: Command, pick: random.Random) -> Noticed:
    """Every read and write fails for some seconds, longer than from one checkpoint to the next. Over when it is
    back.
    """
    run.switch("away")
    until = time.monotonic() + pick.uniform(8, 12)

    def noticed() -> bool:
        if time.monotonic() > until:
            run.switch("away", False)
        return not (run.switches / "away").exists()

    return noticed


def disk_full(run: Command, pick: random.Random) -> Noticed:
    run.switch("full")

    def noticed() -> bool:
        if _ended(run)():
            run.switch("full", False)
            return True
        return False

    return noticed


def _damage(run: Command, pick: random.Random, how: Callable[[bytes], bytes | None]) -> Noticed:
    """Harm the newest checkpoint, and make the run read it."""
    workers = run.workers()
    for pid in workers:  # or a newer one may appear meanwhile
        os.kill(pid, signal.SIGSTOP)
    newest = f"checkpoints/{max(n for n in run.folder.list('checkpoints') if n.isdigit())}"
    harmed = how(run.folder.read(f"{newest}/state.pt"))
    if harmed is None:
        run.folder.remove(newest)
    else:
        run.folder.write(f"{newest}/state.pt", harmed)
    _kill(workers)
    return _gone(run, workers)


def checkpoint_truncated(run: Command, pick: random.Random) -> Noticed:
    return _damage(run, pick, lambda data: data[: pick.randrange(len(data))])


def checkpoint_bit_flipped(run: Command, pick: random.Random) -> Noticed:
    def flip(data: bytes) -> bytes:
        harmed = bytearray(data)
        harmed[pick.randrange(len(harmed))] ^= 1 << pick.randrange(8)
        return bytes(harmed)

    return _damage(run, pick, flip)


def checkpoint_missing(run: Command, pick: random.Random) -> Noticed:
    return _damage(run, pick, lambda data: None)


def ray_state_garbled(run: Command, pick: random.Random) -> Noticed:
    """Garbage in Ray Train's own record of a run, found by the next command."""
    assert run.driver is not None
    run.driver.kill()
    run.folder.write("checkpoint_manager_snapshot.json", pick.randbytes(200))
    return _ended(run)


def second_driver(run: Command, pick: random.Random) -> Noticed:
    other = run.spawn()
    return lambda: other.poll() == 2


FAULTS = {
    f.__name__.replace("_", " "): f
    for f in (
        worker_killed,
        worker_raises,
        rendezvous_breaks,
        raylet_killed,
        gcs_killed,
        driver_killed,
        driver_terminated,
        interrupted,
        everything_terminated,
        storage_away,
        disk_full,
        checkpoint_truncated,
        checkpoint_bit_flipped,
        checkpoint_missing,
        ray_state_garbled,
        second_driver,
    )
}
DAMAGES = ("checkpoint truncated", "checkpoint bit flipped", "checkpoint missing")
