"""Checkpoints that are complete or absent.

    checkpoints/000000128000/state.pt        tensors and plain values, read with weights_only=True: loading never runs code
    checkpoints/000000128000/manifest.json   size and SHA-256 of state.pt, images seen; written last

A checkpoint counts only if its manifest is there and its bytes agree with it. On a local file system it is built in a hidden
folder that is renamed when it is whole; in an object store the manifest is the last object. Newest intact wins; a damaged
one is named in a warning and passed over.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from distgan.storage import Folder

ROOM = "checkpoints"
FORMAT = 1


class CheckpointStore:
    """Checkpoints of one run. `save` copies the state and returns; a thread writes, checks and prunes."""

    def __init__(self, folder: Folder, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep
        self._writer: threading.Thread | None = None
        self._failure: BaseException | None = None

    # -- writing ------------------------------------------------------------------------------------------------------

    def save(
        self, nimg: int, state: dict[str, Any], *, best: int | None = None, then: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        """Write `state` (nested dicts and lists of tensors and plain values) as the checkpoint at `nimg` images.

        The state is copied to memory at once and written in the background. `best` is the images count of the checkpoint
        to keep beside the newest; `then` is called with the copy when it is in storage. An earlier write that failed raises
        here.
        """
        self.wait()
        snapshot = _to_host(state)
        self._writer = threading.Thread(target=self._write, args=(nimg, snapshot, best, then), name="checkpoint-writer")
        self._writer.start()

    def wait(self) -> None:
        """Until the last save is in storage; raises what it raised."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _write(self, nimg: int, state: dict[str, Any], best: int | None, then: Callable[[dict[str, Any]], None] | None) -> None:
        try:
            buffer = io.BytesIO()
            torch.save(state, buffer)
            data = buffer.getbuffer()
            manifest = {
                "format": FORMAT,
                "nimg": nimg,
                "files": {"state.pt": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}},
                "written": time.time(),
            }
            self._commit(_name(nimg), bytes(data), json.dumps(manifest, indent=1).encode())
            self._prune(best)
            if then is not None:
                then(state)
        except BaseException as error:
            self._failure = error

    def _commit(self, name: str, data: bytes, manifest: bytes) -> None:
        if not self.folder.is_local:
            self.folder.remove(f"{ROOM}/{name}/manifest.json")  # a checkpoint that is being replaced is absent meanwhile
            _retry(lambda: self.folder.write(f"{ROOM}/{name}/state.pt", data))
            _retry(lambda: self.folder.write(f"{ROOM}/{name}/manifest.json", manifest))
            return
        aside = f"{ROOM}/.{name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            self.folder.write(f"{aside}/state.pt", data)
            self.folder.write(f"{aside}/manifest.json", manifest)
            self.folder.remove(f"{ROOM}/{name}")
            os.rename(self.folder.path(aside), self.folder.path(f"{ROOM}/{name}"))
        except BaseException:
            self.folder.remove(aside)
            raise

    def _prune(self, best: int | None) -> None:
        names = self.names()
        kept = set(names[-self.keep :]) | ({_name(best)} if best is not None else set())
        for name in names:
            if name not in kept:
                # The manifest goes first: should the deletion be cut short, what is left is no checkpoint.
                self.folder.remove(f"{ROOM}/{name}/manifest.json")
                self.folder.remove(f"{ROOM}/{name}")

    def sweep(self) -> None:
        """Remove what interrupted writes left behind; for the one process that owns the run."""
        for name in self.folder.list(ROOM):
            if name.startswith(".") and name.endswith(".tmp"):
                self.folder.remove(f"{ROOM}/{name}")

    # -- reading ------------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Names of checkpoint folders, oldest first, intact or not."""
        return [n for n in self.folder.list(ROOM) if n.isdigit()]

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """(images seen, state) of the newest intact checkpoint, or None. Damaged ones are named in warnings."""
        for name in reversed(self.names()):
            try:
                return self.load(int(name))
            except CheckpointDamagedError as error:
                warnings.warn(f"{error}; going back to the one before", stacklevel=2)
        return None

    def load(self, nimg: int) -> tuple[int, dict[str, Any]]:
        """(images seen, state) of one checkpoint; CheckpointDamagedError names the file and what is wrong with it."""
        where = f"{ROOM}/{_name(nimg)}"
        try:
            manifest = json.loads(self.folder.read(f"{where}/manifest.json"))
            expected = manifest["files"]["state.pt"]
            if manifest["format"] != FORMAT or manifest["nimg"] != nimg:
                raise ValueError(f"manifest is of format {manifest['format']}, {manifest['nimg']} images")
            data = self.folder.read(f"{where}/state.pt")
            if len(data) != expected["bytes"] or hashlib.sha256(data).hexdigest() != expected["sha256"]:
                raise ValueError("state.pt does not match its checksum")
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged file provokes in the parsers
            raise CheckpointDamagedError(f"checkpoint {self.folder}/{where} is damaged ({type(error).__name__}: {error})") from error
        return nimg, state


class CheckpointDamagedError(Exception):
    """A checkpoint that is incomplete, altered or unreadable."""


def _name(nimg: int) -> str:
    return f"{nimg:012d}"


def _retry(action: Any, tries: int = 5) -> None:
    """Object stores and networks fail for moments: try again with growing pauses, then give up with the last error."""
    for attempt in range(tries):
        try:
            action()
            return
        except OSError:
            if attempt == tries - 1:
                raise
            time.sleep(0.5 * 2**attempt)


def _to_host(value: Any) -> Any:
    """A copy of nested containers with every tensor copied to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {k: _to_host(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_to_host(v) for v in value]
    return value


def free_bytes(folder: Folder) -> int | None:
    """Free space where a local folder lies; None for object stores."""
    if not folder.is_local:
        return None
    path = Path(folder.path())
    while not path.exists():
        path = path.parent
    stats = os.statvfs(path)
    return stats.f_bavail * stats.f_frsize
