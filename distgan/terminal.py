"""The command's standard streams: closed, broken, or of an encoding that knows few letters. None of that may end a run,
whose result lies in storage.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any


class _Persistent(io.FileIO):
    """A file descriptor that may lose its reader: what is written from then on is dropped."""

    def write(self, data: Any) -> int:
        try:
            while (written := super().write(data)) is None:  # a terminal or a pipe that does not block, and is full
                select.select((), (self,), ())
            return written
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(memoryview(data).cast("B"))


def prepare_streams() -> None:
    """Make standard input, output and error usable, whatever this process was started with.

    Closed ones are opened on the null device, before another file gets their number. Where a reader goes away
    (`distgan train | head`, a closed terminal) output goes nowhere, and no error comes of it. What an encoding cannot
    say is written as \\x, \\u or \\U and its number. Streams that somebody else has put in their place (a test, a
    notebook) are left alone.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # takes the lowest free number: this one
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process lives
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(2, sys.stderr)


def _stream(number: int, before: Any) -> io.TextIOWrapper:
    if before is not None:
        before.flush()
    raw = _Persistent(number, "w", closefd=False)
    encoding = getattr(before, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=raw.isatty() or number == 2
    )
