"""TensorBoard's event files, in the folder tensorboard/."""

from __future__ import annotations

from pathlib import Path

from distgan.kinds.picture import Picture


class TensorBoard:
    """Curves, events as texts, and pictures. TensorBoard itself hides what lies past the place where a run went on."""

    def __init__(self, folder: Path, nimg: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(  # type: ignore[no-untyped-call]
            str(folder / "tensorboard"), purge_step=nimg + 1 if nimg else None, flush_secs=10
        )

    def scalars(self, nimg: int, values: dict[str, float]) -> None:
        """One event for all curves: one apiece takes ten times as long."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._events.file_writer.add_summary(points, nimg)  # type: ignore[attr-defined]

    def event(self, nimg: int, text: str) -> None:
        self._events.add_text("events", text, nimg)  # type: ignore[no-untyped-call]

    def picture(self, nimg: int, name: str, picture: Picture) -> None:
        formats = "HW" if picture.ndim == 2 else "HWC"
        self._events.add_image(name, picture, nimg, dataformats=formats)  # type: ignore[no-untyped-call]

    def rewind(self, nimg: int) -> None:
        pass

    def flush(self) -> None:
        self._events.flush()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._events.close()  # type: ignore[no-untyped-call]


WRITER = TensorBoard
