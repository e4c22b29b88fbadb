"""TensorBoard's event files, in the folder tensorboard/.

A tag of TensorBoard's belongs to one kind of value, and what else comes under it is not shown. So pictures and texts
have groups of their own, which no curve gets into. Of a tag's pictures TensorBoard shows ten, picked by chance, unless
it is started with --samples_per_plugin images=0: a series of grids goes on under another tag after ten.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from distgan.kinds.picture import Picture

GROUPS = {"picture": "pictures", "text": "texts"}
SHOWN = 10
"""Pictures of one tag that TensorBoard keeps unless it is told otherwise."""


def tag(kind: Literal["curve", "picture", "text"], name: str) -> str:
    """The tag of a value's name; never the same for two kinds."""
    if kind == "curve":
        return f"curves/{name}" if name.partition("/")[0] in {"curves", *GROUPS.values()} else name
    return f"{GROUPS[kind]}/{name}"


class TensorBoard:
    """Curves, events as texts, and pictures. TensorBoard itself hides what lies past the place where a run went on."""

    def __init__(self, folder: Path, nimg: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(  # type: ignore[no-untyped-call]
            str(folder / "tensorboard"), purge_step=nimg + 1 if nimg else None, flush_secs=10
        )
        self._series: dict[str, tuple[str, int]] = {}  # name -> present tag, pictures under it

    def scalars(self, nimg: int, values: dict[str, float]) -> None:
        """One event for all curves: one apiece takes ten times as long."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = Summary(
            value=[Summary.Value(tag=tag("curve", name), simple_value=value) for name, value in values.items()]
        )
        self._events.file_writer.add_summary(points, nimg)  # type: ignore[attr-defined]

    def event(self, nimg: int, text: str) -> None:
        self._events.add_text(tag("text", "events"), text, nimg)  # type: ignore[no-untyped-call]

    def picture(self, nimg: int, name: str, picture: Picture) -> None:
        formats = "HW" if picture.ndim == 2 else "HWC"
        under, count = self._series.get(name, ("", SHOWN))
        if count >= SHOWN:
            under, count = tag("picture", f"{name} from {nimg / 1000:g} kimg" if nimg else name), 0
        self._series[name] = under, count + 1
        self._events.add_image(under, picture, nimg, dataformats=formats)  # type: ignore[no-untyped-call]

    def rewind(self, nimg: int) -> None:
        self._series.clear()

    def flush(self) -> None:
        self._events.flush()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._events.close()  # type: ignore[no-untyped-call]


WRITER = TensorBoard
