"""What a log writer is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from distgan.kinds.picture import Picture


class LogWriter(Protocol):
    """Writes below `folder`, on this machine, from `nimg` on: the samples seen at the checkpoint that the run goes on
    from, 0 at the beginning. What is there already of later moments must be forgotten. `run.RunLog` ignores OSErrors.
    """

    def __init__(self, folder: Path, nimg: int) -> None: ...

    def scalars(self, nimg: int, values: dict[str, Any]) -> None:
        """One point of each curve: numbers that are finite, and `time`, seconds since 1970."""

    def event(self, nimg: int, text: str) -> None:
        """What a person should know."""

    def picture(self, nimg: int, name: str, picture: Picture) -> None:
        """A preview of samples, uint8 (H, W) or (H, W, 3); `name` is "samples" for generated ones, and may be that of a
        curve too: a writer keeps what it gets of each kind apart.
        """

    def rewind(self, nimg: int) -> None:
        """Forget what is later than `nimg`: the run goes on from there."""

    def flush(self) -> None:
        """Bring everything to the disk."""

    def close(self) -> None: ...
