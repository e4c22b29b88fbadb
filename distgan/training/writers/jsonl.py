"""metrics.jsonl: a line of JSON for each point and each event; what searches and the report read."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from distgan.kinds.picture import Picture

FILE = "metrics.jsonl"


class JsonLines:
    """The lines of one run. A torn last line, of a process that was killed, goes too."""

    def __init__(self, folder: Path, nimg: int) -> None:
        self.path = folder / FILE
        self._keep(nimg or -1)  # the beginning is written anew, with what is known of the data
        self._file = self.path.open("a", encoding="utf-8")

    def scalars(self, nimg: int, values: dict[str, float]) -> None:
        self._append(nimg, {k: v if math.isfinite(v) else None for k, v in values.items()})

    def event(self, nimg: int, text: str) -> None:
        self._append(nimg, {"event": text})

    def picture(self, nimg: int, name: str, picture: Picture) -> None:
        pass

    def rewind(self, nimg: int) -> None:
        self._file.close()
        self._keep(nimg)
        self._file = self.path.open("a", encoding="utf-8")

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _append(self, nimg: int, values: dict[str, Any]) -> None:
        if not self._file.closed:
            line = {"nimg": nimg, "kimg": nimg / 1000, "time": round(time.time(), 3), **values}
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def _keep(self, nimg: int) -> None:
        """Only the lines up to a number of images."""
        if self.path.exists():
            kept = [
                line
                for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines()
                if _nimg(line) <= nimg
            ]
            aside = self.path.with_name(f".{FILE}.tmp")
            aside.write_text("".join(f"{line}\n" for line in kept))
            aside.replace(self.path)


def _nimg(line: str) -> float:
    try:
        return float(json.loads(line)["nimg"])
    except (ValueError, KeyError, TypeError):
        return math.inf


WRITER = JsonLines
