"""What is known of each trial, in storage beside its checkpoints: all that a search needs to go on.

    trials/007/trial.json   {"number", "values", "baseline"}, and "ended" once it has ended: {"state", "seconds", ...}

Every start of a search is a new run of Tune: trials that ended are not run again, those that did not are proposed
again with the same values and resume from their folders. Nothing of Tune's own state is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from distgan.config import RunConfig
from distgan.orchestration.tune.trial import OBJECTIVE, WORST, result_of
from distgan.orchestration.tune.trial_checkpoints import measurements
from distgan.registry import objectives
from distgan.storage import Folder

RECORD = "trial.json"
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
    baseline: bool = False
    seed: int | None = None
    trial: int | None = None
    """Of a confirming run: the trial that it confirms."""
    seconds: float = 0.0
    error: str = ""
    schedule: list[dict[str, Any]] = field(default_factory=list)

    @property
    def measured(self) -> bool:
        return self.objective < WORST


def row_of(proposed: dict[str, Any], result: dict[str, Any], state: str, seconds: float = 0.0, error: str = "") -> Row:
    """The row of a trial: what was proposed, and its last result."""
    return Row(
        proposed["number"],
        state,
        float(result.get("kimg", 0.0)),
        proposed["values"],
        {k: v for k, v in result.items() if k in (*objectives(), "images_per_s")},
        float(result.get(OBJECTIVE, math.inf)),
        baseline=proposed.get("baseline", False),
        seed=proposed.get("seed"),
        trial=proposed.get("trial"),
        seconds=seconds,
        error=error or str(result.get("refused", "")),
        schedule=proposed.get("schedule", []),
    )


class TrialRecords:
    """The records of a search's trials, by number."""

    def __init__(self, config: RunConfig, folder: Folder, directory: str = "trials") -> None:
        """folder: the search's. directory: in it, that of the trials' folders."""
        self.config, self.folder, self.home = config, folder, folder.child(directory)
        self.proposed: dict[int, dict[str, Any]] = {}
        self._left: dict[int, dict[str, Any]] = {}
        for name in self.home.list():
            if name.isdigit():
                try:
                    found = json.loads(self.home.read(f"{name}/{RECORD}"))
                except (OSError, ValueError):
                    continue
                if isinstance(found, dict) and isinstance(found.get("values"), dict):
                    self.proposed[int(name)] = found

    def write(self, proposed: dict[str, Any]) -> None:
        """Note what is proposed for a trial, before it starts."""
        self.proposed[proposed["number"]] = proposed
        self.home.write(f"{proposed['number']:03d}/{RECORD}", json.dumps(proposed))

    def end(self, number: int, result: dict[str, Any]) -> None:
        """Note that a trial has ended with this last result."""
        done = result.get("kimg", 0.0) >= self.config.kimg * (1 - 1e-9)
        lost = bool(result.get("diverged", 0.0))
        state = "failed" if result.get("refused") else "diverged" if lost else "done" if done else "stopped"
        kept = {k: v for k, v in result.items() if k == "refused" or isinstance(v, float)}
        ended = {"state": state, "seconds": float(result.get("time_total_s", 0.0)), "result": kept}
        self.write({**self.proposed[number], "ended": ended})

    def ended(self, number: int) -> dict[str, Any] | None:
        """How a trial ended: {state, seconds, result}; None if it has not, or was never proposed."""
        found = self.proposed.get(number, {}).get("ended")
        return found if isinstance(found, dict) else None

    def measured(self, number: int) -> list[dict[str, Any]]:
        """A trial's measurements as results, oldest first."""
        lines = measurements(self.home.child(f"{number:03d}"), self.config.tune.metric[0])
        return [result_of(self.config, line) for line in lines]

    def rows(self, trials: Iterable[Any], *, going_on: bool, cut: str) -> list[Row]:
        """All trials by number; `trials` are Tune's.

        cut: the state of a trial that has not ended though Tune is done with it, as its search was cut off.
        """
        live = {trial.config["number"]: trial for trial in trials}
        rows = []
        for number, proposed in sorted(self.proposed.items()):
            ended, trial = self.ended(number), live.get(number)
            if ended is not None:
                rows.append(row_of(proposed, ended["result"], ended["state"], ended["seconds"]))
            elif trial is None:
                if number not in self._left:  # nobody trains it, so it is read once
                    self._left[number] = ([{}] + self.measured(number))[-1]
                rows.append(row_of(proposed, self._left[number], "waiting" if going_on else cut))
            else:
                result = trial.last_result or {}
                states = {"PENDING": "waiting", "RUNNING": "running", "PAUSED": "paused", "ERROR": "failed"}
                words = str(trial.get_error() or "").strip().splitlines() if trial.status == "ERROR" else []
                seconds = float(result.get("time_total_s", 0.0))
                state = states.get(trial.status, cut)
                rows.append(row_of(trial.config, result, state, seconds, words[-1] if words else ""))
        return rows
