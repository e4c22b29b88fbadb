"""Decoded sets on disk: built once a node, then memory-mapped by every worker.

An entry is a folder named by the hash of what it was made from: where the files lie, their sizes, times and inodes,
and the settings. It is built aside and renamed, so an entry that exists is complete; a file lock makes other processes
of the node wait for the builder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from distgan.config import ConfigError, DataConfig
from distgan.kinds.base import SampleSet
from distgan.kinds.image.image_set import Fingerprint, Labels, Pixels, image_spec
from distgan.storage import user_cache

FORMAT = 4  # part of every key: raise it when decoding changes, and old entries are left alone


def cache_root(config: DataConfig) -> Path:
    """Folder of all decoded sets."""
    given = config.cache or os.environ.get("DISTGAN_CACHE")
    return (Path(os.path.expanduser(given)) if given else user_cache() / "decoded").absolute()


class Writer:
    """Receives a set in parts while it is being built, writing images.npy with room for a count that is known at the
    end.
    """

    HEADER = 128

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.labels: Labels | None = None
        self.classes: tuple[str, ...] = ()
        self.skipped: list[str] = []
        self.remarks: list[str] = []
        self._mark, self._n, self._shape = Fingerprint(), 0, (0, 0, 0)
        self._source: str | None = None
        self._file = open(folder / "images.npy", "wb")  # noqa: SIM115 - closed in finish
        self._file.write(bytes(self.HEADER))

    def add(self, images: Pixels) -> None:
        """The next images (n, C, H, W)."""
        images = np.ascontiguousarray(images)
        self._file.write(images.data)
        self.note(images)

    def note(self, images: Pixels) -> None:
        """The next images of a file that is kept where it is (see `keep`): hashed and counted only."""
        self._mark.add(images)
        self._n, self._shape = self._n + len(images), images.shape[1:]

    def keep(self, source: Path) -> None:
        """The images are those of this .npy file, which needs no conversion."""
        self._source = os.path.realpath(source)

    def finish(self, name: str) -> None:
        """Write what describes the images."""
        shape = (self._n, *self._shape)
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {tuple(int(side) for side in shape)!r}, }}".encode()
        self._file.seek(0)
        self._file.write(
            b"\x93NUMPY\x01\x00" + (self.HEADER - 10).to_bytes(2, "little") + text.ljust(self.HEADER - 11) + b"\n"
        )
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()
        if self._source is not None:
            (self.folder / "images.npy").unlink()
        if self.labels is not None:
            np.save(self.folder / "labels.npy", self.labels)
        meta = {
            "name": name,
            "n": self._n,
            "classes": self.classes,
            "skipped": self.skipped,
            "remarks": self.remarks,
            "source": self._source,
            "fingerprint": self._mark.hex(shape, self.labels),
        }
        (self.folder / "meta.json").write_text(json.dumps(meta, indent=1))

    def close(self) -> None:
        """Close the file of images."""
        self._file.close()


def cached(config: DataConfig, name: str, key: Mapping[str, Any], build: Callable[[Writer], None]) -> SampleSet:
    """The set made from `key` (anything that goes into JSON), from the cache, or through `build` if it is not there
    yet.

    Raises ConfigError if the cache cannot be written. Whatever ends `build` early leaves nothing behind.
    """
    digest = hashlib.blake2b(json.dumps({"format": FORMAT, **key}, sort_keys=True).encode(), digest_size=12).hexdigest()
    root = cache_root(config)
    entry = root / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name)[:40]}-{digest}"
    found = _read(entry)
    if found is not None:
        return found
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root / f".{entry.name}.lock") as alone:
            return _read(entry) or _build(entry, name, build, alone)
    except OSError as error:
        raise ConfigError(
            f"data.cache = {root}: cannot keep the decoded images there ({error}); allowed: a folder with free space "
            "that you may write to, set by data.cache or $DISTGAN_CACHE"
        ) from None


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Hold a file lock. Gives False on file systems without locks: a set may be decoded twice there, which does no
    harm.
    """
    from filelock import FileLock

    lock = FileLock(path)
    try:
        lock.acquire()
    except NotImplementedError:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _build(entry: Path, name: str, build: Callable[[Writer], None], alone: bool) -> SampleSet:
    prefix = f".{entry.name}.{socket.gethostname()}."
    for left in (
        entry.parent.glob(f"{prefix}*") if alone else ()
    ):  # unfinished, and its process is gone, or it would hold the lock
        shutil.rmtree(left, ignore_errors=True)
    aside = entry.parent / f"{prefix}{uuid.uuid4().hex[:8]}"
    aside.mkdir()
    writer = Writer(aside)
    try:
        build(writer)
        writer.finish(name)
        if entry.exists() and _read(entry) is None:
            shutil.rmtree(entry)  # damaged
        try:
            os.replace(aside, entry)
        except OSError:
            if not entry.exists():  # else another machine was quicker, with the same result
                raise
    finally:
        writer.close()
        shutil.rmtree(aside, ignore_errors=True)
    result = _read(entry)
    if result is None:
        raise OSError("what was written cannot be read back")
    return result


def _read(entry: Path) -> SampleSet | None:
    """The entry's images, or None if it is missing or damaged."""
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        images = np.load(meta["source"] or entry / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(entry / "labels.npy", allow_pickle=False) if (entry / "labels.npy").exists() else None
    except (OSError, ValueError, KeyError):
        return None
    if images.ndim != 4 or (labels is not None and len(labels) != len(images)):
        return None
    n = int(meta["n"])
    spec = image_spec(meta["name"], images.shape[1], images.shape[2:], tuple(meta["classes"]), n)
    return SampleSet(spec, images[:n], labels, meta["fingerprint"], tuple(meta["skipped"]), tuple(meta["remarks"]))
