"""What tells whether a file is still the one that was decoded: for the keys of the cache."""

from __future__ import annotations

import os
from pathlib import Path

Stamp = tuple[int, int, int, int]


def stamp(status: os.stat_result) -> Stamp:
    """(size, mtime, ctime, inode), times in ns. A program may set mtime; the system alone sets ctime, and the inode
    is another one where a file of the same name, size and times took the place.
    """
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def identity(file: Path) -> tuple[str, Stamp]:
    """Where a file really lies, whatever links lead to it, and its stamp. Raises OSError."""
    return os.path.realpath(file), stamp(os.stat(file))
