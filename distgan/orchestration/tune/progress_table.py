"""What a person watches while a search goes on, and the limits that end it."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from ray.tune import Callback, Stopper

from distgan.config import RunConfig
from distgan.orchestration.tune.trial_records import UNDER_WAY, Row, TrialRecords
from distgan.runs.progress import span
from distgan.storage import Folder
from distgan.training.logs import read_status

WARNINGS = 20
"""Events of trials that are told; a search of bad values has no end of them."""
CLOCK = "clock.json"
"""In the search's folder: the seconds that it has run, over all its starts."""


class ProgressTable:
    """The live table of a search's trials."""

    def __init__(self, config: RunConfig, records: TrialRecords, title: str, total: int, budget: Budget) -> None:
        self.config, self.records, self.title, self.total, self.budget = config, records, title, total, budget
        self.trials: list[Any] = []
        self.tuning = False
        """Whether Tune is at work."""
        self._out, self._next = sys.stdout, 0.0
        self._live: Any = None
        self._said: dict[int, tuple[str, float]] = {}
        self._warned: set[tuple[int, str]] = set()
        self._quiet: set[int] = set()
        self._began = time.monotonic()

    def __enter__(self) -> ProgressTable:
        self.tuning = True
        self._quiet = {row.number for row in self.rows if row.state not in UNDER_WAY}  # told by an earlier start
        if self._out.isatty():
            from rich.live import Live

            self._live = Live(self._table(), auto_refresh=False, transient=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.tuning = False
        self.budget.close()
        self._warn(last=True)
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            self._live.stop()
        else:
            self._say()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks for a restore that is never asked for."""
        return {}

    @property
    def rows(self) -> list[Row]:
        cut = "stopped" if self.spent else "interrupted"
        return self.records.rows(self.trials, going_on=self.tuning, cut=cut)

    @property
    def spent(self) -> bool:
        """Whether the search's time or images are spent."""
        if self.budget.total_kimg is None:
            return self.budget.spent(0.0)
        return self.budget.spent(sum(row.kimg for row in self.records.rows(self.trials, going_on=True, cut="")))

    @property
    def over(self) -> bool:
        """Whether nothing is left to do: all trials that there may be have ended, or the budget is spent."""
        ended = [row for row in self.rows if row.state not in UNDER_WAY]
        return len(ended) == self.total or self.spent

    def paused(self) -> set[str]:
        """Tune's ids of the trials that wait without a process."""
        return {trial.trial_id for trial in self.trials if trial.status == "PAUSED"}

    def update(self, trials: list[Any]) -> None:
        self.trials = list(trials)
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + (1.0 if self.records.home.is_local else 5.0)
        self._warn()
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        else:
            self._say()

    def _say(self) -> None:
        """Where there is no terminal: one line each time that a trial is measured or ends."""
        for row in self.rows:
            mark = (row.state, row.kimg)
            if row.state not in UNDER_WAY or (row.kimg and self._said.get(row.number, ("", 0.0))[1] != row.kimg):
                if self._said.get(row.number) != mark:
                    score = self._score(row)
                    label = self._label(row) if row.trial is not None else str(row.number)
                    self._print(f"trial {label:>3}  {row.state:<8}  {row.kimg:8.4g} kimg  {score:>10}  {describe(row)}")
                self._said[row.number] = mark

    def _warn(self, *, last: bool = False) -> None:
        """Tell what happened in trials: of each the first event of a kind, without the advice; `WARNINGS` in all."""
        if not self.records.home.is_local and not last:  # a read a trial: at the end will do
            return
        for row in self.rows:
            if row.number in self._quiet or row.state in ("waiting", "interrupted"):
                continue
            if row.state not in UNDER_WAY:
                self._quiet.add(row.number)  # after this last look
            for event in read_status(self.records.home.child(f"{row.number:03d}")).get("events", ()):
                kind = event["text"].partition(":")[0]
                if not event["nimg"] or (row.number, kind) in self._warned:
                    continue
                self._warned.add((row.number, kind))
                what = event["text"].partition(" Try ")[0].rstrip(".")
                if len(self._warned) <= WARNINGS:
                    self._print(f"trial {self._label(row):>3}  {event['nimg'] / 1000:g} kimg: {what}")
                elif len(self._warned) == WARNINGS + 1:
                    self._print(f"more is in {self.records.home}/NUMBER/metrics.jsonl")

    def _print(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(line, highlight=False, markup=False)
        else:
            print(line, flush=True)

    def _score(self, row: Row) -> str:
        name = self.config.tune.metric[0]
        return f"{name.upper()} {row.metrics[name]:.4g}" if name in row.metrics and row.measured else "-"

    def _label(self, row: Row) -> str:
        number = row.number if row.trial is None else f"{row.trial}, seed {row.seed}"
        return f"{number}{' (baseline)' if row.baseline else ''}"

    def _headline(self, rows: list[Row]) -> str:
        """How far the search is, in trials and in whatever else limits it."""
        ended = sum(row.state not in UNDER_WAY for row in rows)
        time_s, total_kimg = self.budget.time_s, self.budget.total_kimg
        elapsed = self.budget.elapsed if time_s is not None else time.monotonic() - self._began
        words = f"{self.title}: {ended} of {self.total} trials ended, {span(elapsed)}"
        words += f" of {span(time_s)}" if time_s is not None else ""
        return words + (
            f", {sum(row.kimg for row in rows):.4g} of {total_kimg:g} kimg" if total_kimg is not None else ""
        )

    def _table(self) -> Any:
        from rich.table import Table

        rows = self.rows
        best = min((row.objective for row in rows if row.measured), default=None)
        table = Table(title=self._headline(rows), title_justify="left")
        names = list(dict.fromkeys(key for row in rows for key in row.values))
        for name in ("trial", "state", "kimg", *self.config.tune.metric, *names):
            table.add_column(
                name, justify="left" if name == "state" else "right", overflow="fold", no_wrap=name == "trial"
            )
        order = {"running": 0, "paused": 1}
        # What does not fit is cut off at the end
        height = max(4, self._live.console.height - 8) if self._live is not None else 30
        shown = sorted(rows, key=lambda row: (order.get(row.state, 2), row.objective, row.number))[:height]
        for row in sorted(shown, key=lambda row: row.number):
            kimg = row.kimg
            if row.state == "running" and self.records.home.is_local:  # between two measurements
                kimg = max(kimg, read_status(self.records.home.child(f"{row.number:03d}")).get("kimg", 0.0))
            lost = row.state in ("stopped", "diverged", "failed")
            style = "bold green" if best is not None and row.objective == best else "dim" if lost else ""
            found = [
                f"{row.metrics[m]:.4g}" if m in row.metrics and row.measured else "-" for m in self.config.tune.metric
            ]
            table.add_row(
                self._label(row),
                row.state,
                f"{kimg:.4g}",
                *found,
                *(short(row.values.get(name)) for name in names),
                style=style,
            )
        return table


class Watch(Callback):  # type: ignore[misc]
    """Tells the table what Tune does, and writes down how trials end."""

    def __init__(self, table: ProgressTable) -> None:
        self.table = table

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.table.update(trials)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.table.records.end(trial.config["number"], trial.last_result or {})


class Budget(Stopper):  # type: ignore[misc]
    """Ends the search when its time or its images are spent. The time that a search did not run does not count."""

    def __init__(self, folder: Folder, time_s: float | None, total_kimg: float | None) -> None:
        """folder: the search's. time_s: seconds. total_kimg: of all trials together. None = no limit."""
        self.folder, self.time_s, self.total_kimg = folder, time_s, total_kimg
        self.table: ProgressTable | None = None
        self.elapsed, self._last, self._written = 0.0, 0.0, 0.0
        if time_s is not None and folder.exists(CLOCK):
            self.elapsed = self._written = float(json.loads(folder.read(CLOCK))["elapsed_s"])

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def spent(self, kimg: float) -> bool:
        """Whether there is no time left, or `kimg` are too many."""
        return (self.time_s is not None and self.elapsed >= self.time_s) or (
            self.total_kimg is not None and kimg >= self.total_kimg
        )

    def stop_all(self) -> bool:
        now = time.monotonic()
        self.elapsed += now - self._last if self._last else 0.0
        self._last = now
        if self.elapsed >= self._written + 5:
            self.close()
        return self.table is not None and self.table.spent

    def close(self) -> None:
        """Write down how long the search has run."""
        if self.time_s is not None and self.elapsed > self._written:
            self.folder.write(CLOCK, json.dumps({"elapsed_s": self.elapsed}))
            self._written = self.elapsed

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as with the table."""
        return {}


def short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def describe(row: Row) -> str:
    """A trial's values in words."""
    return ("baseline: " if row.baseline else "") + " ".join(
        f"{key}={short(value)}" for key, value in row.values.items()
    )
