"""The trials of a search as rows: what a person watches while it goes on, and what is written down at the end."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from ray.tune import Callback, Stopper

from distgan.config import RunConfig
from distgan.orchestration.tune.trial import OBJECTIVE, WORST
from distgan.runs.progress import span
from distgan.storage import Folder
from distgan.training.logs import read_status

UNDER_WAY = ("waiting", "running", "paused", "interrupted")


@dataclass(frozen=True)
class Row:
    """One trial."""

    number: int
    state: str
    """waiting, running, paused, done, stopped (before its budget), diverged, failed, or interrupted with the search"""
    kimg: float
    values: dict[str, Any]
    metrics: dict[str, float]
    objective: float
    """Lower is better; inf before the first measurement."""
    preset: bool = False
    seed: int | None = None
    trial: int | None = None
    """Of a confirming run: the trial that it confirms."""
    seconds: float = 0.0
    error: str = ""
    schedule: list[dict[str, Any]] = field(default_factory=list)

    @property
    def measured(self) -> bool:
        return self.objective < WORST


def rows_of(trials: Iterable[Any], budget_kimg: float) -> list[Row]:
    """Rows of Tune's trials, by number."""
    rows = []
    for trial in trials:
        result = trial.last_result or {}
        metrics = {k: v for k, v in result.items() if k in ("fid", "kid", "class_kl", "modes", "images_per_s")}
        kimg, lost = float(result.get("kimg", 0.0)), bool(result.get("diverged", 0.0))
        states = {"PENDING": "waiting", "RUNNING": "running", "PAUSED": "paused", "ERROR": "failed"}
        refused = str(result.get("refused", ""))
        ended = (
            "failed" if refused else "diverged" if lost else "done" if kimg >= budget_kimg * (1 - 1e-9) else "stopped"
        )
        state = states.get(trial.status) or ended
        error = (str(trial.get_error() or "").strip().splitlines() or [""])[-1] if trial.status == "ERROR" else refused
        rows.append(
            Row(
                trial.config["number"],
                state,
                kimg,
                trial.config["values"],
                metrics,
                float(result.get(OBJECTIVE, math.inf)),
                preset=trial.config.get("preset", False),
                seed=trial.config.get("seed"),
                trial=trial.config.get("trial"),
                seconds=float(result.get("time_total_s", 0.0)),
                error=error,
                schedule=trial.config.get("schedule", []),
            )
        )
    return sorted(rows, key=lambda row: row.number)


class Board:
    """The live table. Tune makes copies of callbacks and stoppers where it restores a search, so they find it here, in
    `current`.
    """

    current: ClassVar[Board | None] = None

    def __init__(self, config: RunConfig, home: Folder, title: str, total: int) -> None:
        self.config, self.home, self.title, self.total = config, home, title, total
        self.trials: list[Any] = []
        self.spent = False
        self.budget: Budget | None = None
        self._alive: set[str] | None = None
        """Tune's trials that had not ended in its last step; None if it took none, as there was nothing left to do."""
        self._out, self._next = sys.stdout, 0.0
        self._live: Any = None
        self._said: dict[int, tuple[str, float]] = {}
        self._began = time.monotonic()

    def __enter__(self) -> Board:
        Board.current = self
        if self._out.isatty():
            from rich.live import Live

            self._live = Live(self._table(), auto_refresh=False, transient=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        Board.current = None
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            self._live.stop()
        else:
            self._say()

    @property
    def rows(self) -> list[Row]:
        rows, alive = rows_of(self.trials, self.config.kimg), self._alive or set()
        # At an interruption Tune ends what is under way, in the same words as what has ended for good
        cut = {
            trial.config["number"] for trial in self.trials if trial.trial_id in alive and trial.status == "TERMINATED"
        }
        return [
            replace(row, state="interrupted") if row.number in cut and row.state == "stopped" else row for row in rows
        ]

    @property
    def over(self) -> bool:
        """Whether nothing is left to do: all trials that there may be have ended, or the budget is spent."""
        ended = all(row.state not in UNDER_WAY for row in self.rows)
        return bool(self.trials) and ended and (self.spent or len(self.trials) >= self.total or self._alive is None)

    def update(self, trials: list[Any]) -> None:
        self.trials = list(trials)
        self._alive = {trial.trial_id for trial in trials if trial.status not in ("TERMINATED", "ERROR")}
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + (1.0 if self.home.is_local else 5.0)
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
                    print(
                        f"trial {label:>3}  {row.state:<8}  {row.kimg:8.4g} kimg  {score:>10}  {describe(row)}",
                        flush=True,
                    )
                self._said[row.number] = mark

    def _score(self, row: Row) -> str:
        name = self.config.tune.metric[0]
        return f"{name.upper()} {row.metrics[name]:.4g}" if name in row.metrics and row.measured else "-"

    def _label(self, row: Row) -> str:
        number = row.number if row.trial is None else f"{row.trial}, seed {row.seed}"
        return f"{number}{' (own)' if row.preset else ''}"

    def _headline(self, rows: list[Row]) -> str:
        """How far the search is, in trials and in whatever else limits it."""
        ended = sum(row.state not in UNDER_WAY for row in rows)
        time_s = self.budget.time_s if self.budget is not None else None
        total_kimg = self.budget.total_kimg if self.budget is not None else None
        elapsed = (
            self.budget.elapsed if self.budget is not None and time_s is not None else time.monotonic() - self._began
        )
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
        room = (
            max(4, self._live.console.height - 8) if self._live is not None else 30
        )  # what does not fit is cut off at the end
        shown = sorted(rows, key=lambda row: (order.get(row.state, 2), row.objective, row.number))[:room]
        for row in sorted(shown, key=lambda row: row.number):
            kimg = row.kimg
            if row.state == "running" and self.home.is_local:  # between two measurements
                kimg = max(kimg, read_status(self.home.child(f"{row.number:03d}")).get("kimg", 0.0))
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
    """Tells the board what Tune does."""

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if Board.current is not None:
            Board.current.update(trials)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        if Board.current is not None:
            Board.current.trials = list(trials)


class Budget(Stopper):  # type: ignore[misc]
    """Ends the search when its time or its images are spent. The time that a search did not run does not count."""

    def __init__(self, time_s: float | None, total_kimg: float | None) -> None:
        """time_s: seconds. total_kimg: of all trials together. None = no limit."""
        self.time_s, self.total_kimg = time_s, total_kimg
        self.elapsed = 0.0
        self.kimg: dict[str, float] = {}
        self._last: float | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.kimg[trial_id] = max(self.kimg.get(trial_id, 0.0), float(result["kimg"]))
        return False

    def stop_all(self) -> bool:
        now = time.monotonic()
        self.elapsed += now - self._last if self._last is not None else 0.0
        self._last = now
        spent = (self.time_s is not None and self.elapsed >= self.time_s) or (
            self.total_kimg is not None and sum(self.kimg.values()) >= self.total_kimg
        )
        if Board.current is not None:
            Board.current.budget = self
            Board.current.spent = Board.current.spent or spent
        return spent

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}


def short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def describe(row: Row) -> str:
    """A trial's values in words."""
    return ("own values: " if row.preset else "") + " ".join(
        f"{key}={short(value)}" for key, value in row.values.items()
    )
