"""Checkpoints that are complete or absent.

    checkpoints/000000128000/state.pt        tensors and plain values, read with weights_only=True: loading never runs
    code
    checkpoints/000000128000/manifest.json   size and SHA-256 of state.pt, images seen; written last

A checkpoint counts only if its manifest is there and its bytes agree with it. On a local file system it is built in a
hidden folder that is renamed when it is whole; in an object store the manifest is the last object. Newest intact wins;
a damaged one is named in a warning, passed over, and removed once newer ones are in storage.

torch is imported when a checkpoint is written or read: a search's driver looks at their names only.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distgan.config import RunError
from distgan.storage import FULL, Folder, free_bytes

CHECKPOINTS = "checkpoints"
FORMAT = 1

PATIENCE_S = 120.0
"""How long the training goes on while no checkpoint can be written, before it is asked to stop."""
DISK_FULL_PATIENCE_S = 0.0
"""The same when the disk is full: that does not pass by itself, and what is trained meanwhile would be lost."""


class CheckpointDamagedError(Exception):
    """A checkpoint that is incomplete, altered or unreadable."""


class CheckpointWriteError(RunError):
    """Checkpoints cannot be written, and have not been for longer than the training should go on without."""


@dataclass
class _Job:
    nimg: int
    state: dict[str, Any]
    best: int | None
    then: Callable[[dict[str, Any]], None] | None


class CheckpointStore:
    """Checkpoints of one run. `save` copies the state and returns; a thread writes, checks and prunes.

    While storage fails the thread keeps trying, always with the newest state, and the training goes on, except where
    the storage is full (`hold`). When that has lasted too long, `on_trouble` is called, once and from the thread, and
    `wait` raises CheckpointWriteError.
    """

    def __init__(
        self,
        folder: Folder,
        keep: int = 2,
        on_trouble: Callable[[], None] | None = None,
        regular: Callable[[int], bool] = lambda nimg: True,
    ) -> None:
        """keep: newest checkpoints that stay, and as many of those that are `regular`: at these counts of images every
        run writes one, however often it was interrupted.
        """
        self.folder, self.keep, self.regular = folder, keep, regular
        self.on_trouble = on_trouble
        self.patience_s, self.disk_full_patience_s = PATIENCE_S, DISK_FULL_PATIENCE_S
        self._lock = threading.Condition()
        self._job: _Job | None = None
        self._writer: threading.Thread | None = None
        self._failing_since: float | None = None
        self._no_room = False
        self._trouble: BaseException | None = None
        self._damaged: set[str] = set()
        self._notes: list[str] = []
        self._saved_at = float("-inf")
        self.newest_written: str | None = None
        """Folder, inside the run's, of the newest checkpoint that this process knows to be in storage."""

    @property
    def idle_s(self) -> float:
        """Seconds since the last save."""
        return time.monotonic() - self._saved_at

    # -- writing ------------------------------------------------------------------------------------------------------

    def save(
        self,
        nimg: int,
        state: dict[str, Any],
        *,
        best: int | None = None,
        then: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Write `state` (nested dicts and lists of tensors and plain values) as the checkpoint at `nimg` images.

        The state is copied to memory at once and written in the background, after the one before. `best` is the images
        count of the checkpoint to keep beside the newest; `then` is called with the copy when it is in storage.
        """
        self._saved_at = time.monotonic()
        job = _Job(nimg, to_host(state), best, then)
        with self._lock:
            self._lock.wait_for(lambda: self._job is None or self._failing_since is not None)
            self._job = job  # an older one that could not be written yet gives way
            if self._writer is None:
                self._trouble = None
                self._writer = threading.Thread(target=self._work, name="checkpoint-writer", daemon=True)
                self._writer.start()

    def wait(self) -> None:
        """Until the last save is in storage; raises CheckpointWriteError if it could not be brought there."""
        writer = self._writer
        if writer is not None:
            writer.join()
        if self._trouble is not None:
            trouble, self._trouble = self._trouble, None
            raise trouble

    def hold(self) -> None:
        """Wait while the storage is full, until there is room or hope is given up: what is trained meanwhile could not
        be kept.
        """
        with self._lock:
            self._lock.wait_for(lambda: not self._no_room)

    def notes(self) -> list[str]:
        """What a person should know and has not been told: writes that failed, damaged checkpoints. Each is returned
        once.
        """
        with self._lock:
            notes, self._notes = self._notes, []
        return notes

    def _note(self, text: str) -> None:
        with self._lock:
            self._notes.append(text)

    def _work(self) -> None:
        """The writer's thread: the newest job, until there is none or hope is given up."""
        pause = 0.5
        while True:
            with self._lock:
                job = self._job
                if job is None:
                    self._writer = None
                    return
            try:
                self._write(job)
                pause = 0.5
                with self._lock:
                    self._failing_since, self._no_room = None, False
                    if self._job is job:
                        self._job = None
                    self._lock.notify_all()
            except OSError as error:
                now = time.monotonic()
                full = error.errno in FULL
                if self._failing_since is None:
                    self._note(f"checkpoint at {job.nimg / 1000:g} kimg not written, trying on: {error}")
                    with self._lock:
                        self._failing_since = now
                with self._lock:
                    self._no_room = full
                    self._lock.notify_all()
                failing = now - self._failing_since
                if failing >= (self.disk_full_patience_s if full else self.patience_s):
                    told = str(error) if full else f"no checkpoint could be written for {failing:.0f} s: {error}"
                    self._give_up(CheckpointWriteError(told))
                    return
                time.sleep(pause)
                pause = min(2 * pause, 10.0)
            except BaseException as error:
                self._give_up(error)
                return

    def _give_up(self, error: BaseException) -> None:
        with self._lock:
            self._trouble, self._job, self._writer, self._no_room = error, None, None, False
            self._lock.notify_all()
        if self.on_trouble is not None:
            self.on_trouble()

    def _write(self, job: _Job) -> None:
        import torch

        buffer = io.BytesIO()
        torch.save(job.state, buffer)
        data = buffer.getvalue()
        manifest = {
            "format": FORMAT,
            "nimg": job.nimg,
            "files": {"state.pt": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}},
            "written": time.time(),
        }
        self._commit(_name(job.nimg), data, json.dumps(manifest, indent=1).encode())
        self._damaged.discard(_name(job.nimg))
        self.newest_written = f"{CHECKPOINTS}/{_name(job.nimg)}"
        self._prune(job.best)
        if job.then is not None:
            try:
                job.then(job.state)
            except OSError as error:  # what follows a checkpoint is made anew after the next one
                self._note(f"checkpoint at {job.nimg / 1000:g} kimg is written, what belongs to it is not: {error}")

    def _commit(self, name: str, data: bytes, manifest: bytes) -> None:
        if not self.folder.is_local:
            self.folder.remove(
                f"{CHECKPOINTS}/{name}/manifest.json"
            )  # a checkpoint that is being replaced is absent meanwhile
            self.folder.write(f"{CHECKPOINTS}/{name}/state.pt", data)
            self.folder.write(f"{CHECKPOINTS}/{name}/manifest.json", manifest)
            return
        aside, old = (f"{CHECKPOINTS}/.{name}.{uuid.uuid4().hex[:8]}.tmp" for _ in range(2))
        try:
            self._need(len(data) + len(manifest))
            self.folder.write(f"{aside}/state.pt", data)
            self.folder.write(f"{aside}/manifest.json", manifest)
            if self.folder.exists(f"{CHECKPOINTS}/{name}"):
                os.rename(self.folder.path(f"{CHECKPOINTS}/{name}"), self.folder.path(old))
            os.rename(self.folder.path(aside), self.folder.path(f"{CHECKPOINTS}/{name}"))
            _sync(self.folder.path(CHECKPOINTS))
        except OSError as error:
            if error.errno in FULL:
                raise self._full(len(data), error) from error
            raise
        finally:
            self.folder.remove(aside)
            self.folder.remove(old)

    def _need(self, needed: int) -> None:
        free = free_bytes(self.folder)
        if free is not None and free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _full(self, needed: int, error: OSError) -> OSError:
        free = free_bytes(self.folder)
        text = (
            f"{self.folder.path(CHECKPOINTS)}: {error.strerror}: a checkpoint needs {needed:,} bytes, {free:,} are "
            "free; the checkpoints there are intact, delete something else, or move the run to a larger disk"
        )
        full = OSError(text)
        full.errno = error.errno
        return full

    def _prune(self, best: int | None) -> None:
        names = self.names()
        intact = [name for name in names if name not in self._damaged]
        regular = [name for name in intact if self.regular(int(name))]
        kept = {*intact[-self.keep :], *regular[-self.keep :], *([_name(best)] if best is not None else [])}
        for name in names:
            if name not in kept:
                self._remove(name)

    def _remove(self, name: str) -> None:
        # The manifest goes first: should the deletion be cut short, what is left is no checkpoint.
        self.folder.remove(f"{CHECKPOINTS}/{name}/manifest.json")
        self.folder.remove(f"{CHECKPOINTS}/{name}")
        self._damaged.discard(name)

    def remove_later(self, nimg: int) -> None:
        """Remove the checkpoints of more than `nimg` images, when the last save is in storage: the run goes on from
        there, and so must a restart.
        """
        self.wait()
        for name in reversed(self.names()):
            if int(name) > nimg:
                self._remove(name)

    def sweep(self) -> None:
        """Remove what interrupted writes left behind; for the one process that owns the run."""
        self.folder.sweep(keep=(".lease", ".stop"))  # those are the driver's
        for name in self.names():
            if not self.folder.exists(f"{CHECKPOINTS}/{name}/manifest.json"):
                self._damaged.add(name)

    # -- reading ------------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Names of checkpoint folders, oldest first, intact or not."""
        return [n for n in self.folder.list(CHECKPOINTS) if n.isdigit()]

    def newest(self, regular_until: int | None = None) -> tuple[int, dict[str, Any]] | None:
        """(images seen, state) of the newest intact checkpoint, or None. Damaged ones are named in warnings.

        regular_until: only of the regular ones, of at most so many images.
        """
        for name in reversed(self.names()):
            if regular_until is not None and not (int(name) <= regular_until and self.regular(int(name))):
                continue
            try:
                return self.load(int(name))
            except CheckpointDamagedError as error:
                self._damaged.add(name)
                self._note(f"{error}; going back to the one before")
                warnings.warn(f"{error}; going back to the one before", stacklevel=2)
        return None

    def load(self, nimg: int) -> tuple[int, dict[str, Any]]:
        """(images seen, state) of one checkpoint; CheckpointDamagedError names the file and what is wrong with it.

        A storage that cannot be reached is no damage: its OSError is passed on.
        """
        import torch

        where = f"{CHECKPOINTS}/{_name(nimg)}"
        try:
            manifest = json.loads(self._fetch(f"{where}/manifest.json"))
            expected = manifest["files"]["state.pt"]
            if manifest["format"] != FORMAT or manifest["nimg"] != nimg:
                raise ValueError(f"manifest is of format {manifest['format']}, {manifest['nimg']} images")
            data = self._fetch(f"{where}/state.pt")
            if len(data) != expected["bytes"] or hashlib.sha256(data).hexdigest() != expected["sha256"]:
                raise ValueError("state.pt does not match its checksum")
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # whatever a damaged file provokes in the parsers
            raise CheckpointDamagedError(
                f"checkpoint {self.folder}/{where} is damaged ({type(error).__name__}: {error})"
            ) from error
        self.newest_written = self.newest_written or where
        return nimg, state

    def _fetch(self, name: str) -> bytes:
        try:
            return self.folder.read(name)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
            if missing or (self.folder.is_local and error.errno == errno.EIO):  # the disk itself has lost it
                raise ValueError(f"{name.rpartition('/')[2]} cannot be read: {error}") from error
            raise


def _name(nimg: int) -> str:
    return f"{nimg:012d}"


def _sync(path: str) -> None:
    """Make the names in a local folder outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_host(value: Any) -> Any:
    """A copy of nested containers with every tensor copied to the CPU."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {k: to_host(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_host(v) for v in value]
    return value
