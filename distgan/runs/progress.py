"""What a person sees while a run goes on: one live line on a terminal, a plain line now and then elsewhere; at the end,
where everything is. The line is drawn from the run's status, wherever the loop runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from distgan.text import clock, command

if TYPE_CHECKING:
    from distgan.config import RunConfig
    from distgan.runs.prepare import Prepared


span = clock  # the name that the table of a search imports


class ProgressLine:
    """Draws statuses, and tells events. On a terminal the line is rewritten; in a log a new one comes every `every_s`
    seconds.
    """

    def __init__(
        self, headline: str, out: TextIO | None = None, every_s: float = 10.0, *, notes: Sequence[str] = ()
    ) -> None:
        """notes: what is known of the data already; the run records it as an event of its beginning."""
        self.out = out or sys.stdout
        self.live, self.every_s = self.out.isatty(), every_s
        self._first: tuple[float, float] | None = None
        self._shown: dict[str, Any] = {}
        self._told = {(0, note) for note in notes}
        self._former: Any = None
        self._next, self._width = 0.0, 0
        print(*notes, headline, sep="\n", file=self.out, flush=True)

    def follow(self, former: dict[str, Any]) -> None:
        """`update` will be called with what lies in storage, where at first the status of a former start does."""
        self._former = former.get("writer")

    def update(self, status: dict[str, Any]) -> None:
        """Show a status if it is new and it is time, and what it has to tell that was not told before."""
        if self._former is not None and status.get("writer") == self._former:
            return
        for event in status.get("events", ()):
            self.tell(event["nimg"], event["text"])
        waits = status.get("step_s", 0) > 0  # told in the middle of a long step
        place = [status.get("nimg"), status.get("step_s", 0)]
        if not (status.get("values") or waits) or place == [self._shown.get("nimg"), self._shown.get("step_s", 0)]:
            return
        now = time.monotonic()
        if self._first is None and not waits:
            self._first = (now, status["kimg"])
        self._shown = status
        if self.live:
            text = self._text(now)
            self.out.write("\r" + text.ljust(self._width))
            self._width = len(text)
        elif now >= self._next or "real_samples" in status["values"]:
            self._next = now + self.every_s
            self.out.write(self._text(now) + "\n")
        self.out.flush()

    def tell(self, nimg: int, text: str) -> None:
        """An event, once: workers that start anew from a checkpoint come to the same again."""
        if (nimg, text) not in self._told:
            self._told.add((nimg, text))
            self.note(f"{nimg / 1000:g} kimg: {text}" if nimg else text)

    def note(self, text: str) -> None:
        """A line of its own, above the live one."""
        self.out.write(("\r" + " " * self._width + "\r" if self.live else "") + text + "\n")
        self.out.flush()

    def close(self) -> None:
        if self.live and self._width:
            self.out.write("\n")
            self.out.flush()

    def _text(self, now: float) -> str:
        status, values = self._shown, self._shown["values"]
        parts = [f"{status['kimg']:8.1f} / {status['total_kimg']:g} kimg"]
        if "images_per_s" in values:
            parts.append(f"{values['images_per_s']:.0f} images/s")
        # The whole pace, with measuring and saving, tells better than the training rate when the run will end.
        since, kimg = self._first or (now, 0.0)
        elapsed, done = now - since - status.get("step_s", 0), status["kimg"] - kimg
        pace = done / elapsed if elapsed > 0 else 0.0
        pace = pace or values.get("images_per_s", 0.0) / 1000
        if pace > 0:
            parts.append(f"ETA {clock((status['total_kimg'] - status['kimg']) / pace)}")
        parts += [f"{label} {values[key]:.3f}" for label, key in (("D", "d_loss"), ("G", "g_loss")) if key in values]
        if status.get("step_s", 0) > 0:
            parts.append(f"in a step for {clock(status['step_s'])}")
        if status.get("best"):
            parts.append(f"best {status['best']['metric'].upper()} {status['best']['value']:.3g}")
        return "  ".join(parts)


class Countdown:
    """How much of a long job is done: one live line on a terminal, a plain line every `every_s` seconds elsewhere."""

    def __init__(self, out: TextIO | None = None, every_s: float = 10.0) -> None:
        self.out = out or sys.stdout
        self.live, self.every_s = self.out.isatty(), every_s
        self._next, self._open = time.monotonic() + (0.3 if self.live else every_s), False

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next and not (self._open and done >= total):
            return  # what is done at once needs no line
        self._next = now + (0.2 if self.live else self.every_s)
        text = f"{what}: {done:,} of {total:,} images"
        self.out.write(f"\r{text.ljust(60)}" if self.live else f"{text}\n")
        self._open = self.live
        self.out.flush()

    def close(self) -> None:
        if self._open:
            self.out.write("\n")
            self.out.flush()
            self._open = False


def storage_option(config: RunConfig) -> list[str]:
    """What a command needs to find a run of this storage from the same working folder."""
    return [] if config.storage in ("./runs", "runs") else ["--storage", config.storage]


def final_words(prepared: Prepared, status: dict[str, Any]) -> str:
    """What was done, where it lies, and what to type next."""
    folder, config, best = prepared.folder, prepared.config, status.get("best") or {}
    name = config.run_name
    run = [name, *storage_option(config)]
    if status["state"] != "complete":
        return (
            f"stopped at {status['kimg']:g} of {status['total_kimg']:g} kimg; nothing is lost: {folder}\n"
            f"  continue    {command('distgan', 'resume', *run)}"
        )
    measured = status.get("values", {})
    score = f", {best['metric'].upper()} {best['value']:.3g} at {best['nimg'] / 1000:g} kimg" if best else ""
    counts = [measured.get(side) for side in ("samples", "real_samples")]
    lines = [
        f"complete: {status['kimg']:g} kimg{score}",
        *(
            [
                f"  measured    {counts[0]:,.0f} generated images against {counts[1]:,.0f} of {config.data.name} "
                f"({config.data.split})"
            ]
            if counts[0] and counts[1]
            else []
        ),
        f"  run         {folder}",
        f"  samples     {folder}/samples/{status['nimg'] // 1000:06d}.png",
        f"  generator   {folder}/generator",
        f"  curves      {command('tensorboard', '--logdir', folder.child('tensorboard'))}",
        f"  more        {command('distgan', 'sample', *run, '-n', 64, '--out', 'grid.png')}",
    ]
    if "class_kl" in measured:
        lines[0] += f", class KL {measured['class_kl']:.3g}"
    if "aux_accuracy_held_out" in measured:
        lines[0] += f", {measured['aux_accuracy_held_out']:.1%} of held-out images classified right"
    return "\n".join(lines)
