"""The runs and searches in a storage, as a person wants to see them: how far, how good, and whether somebody still
works on them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import yaml

from distgan.export.best_trial import SEARCH, WINNER
from distgan.runs.lease import read_lease, seems_held
from distgan.storage import Folder
from distgan.text import count
from distgan.training.logs import read_status

SILENT_S = 60.0
"""A run without a lease (a trial of a search) that has said nothing for so long is interrupted."""


@dataclass(frozen=True)
class Listed:
    """One run, or one search. `heartbeat_s` is the time since it was last heard of, by this machine's clock; None if it
    never was.
    """

    name: str
    state: str  # new, training, interrupted, stopped, failed, complete; of a search: search, searched
    kimg: float
    total_kimg: float
    best: str
    heartbeat_s: float | None
    trials: int | None = None  # of a search, begun so far

    @property
    def progress(self) -> str:
        return f"{self.kimg:g} of {self.total_kimg:g}" if self.trials is None else count(self.trials, "trial")


def list_runs(storage: Folder) -> list[Listed]:
    """Every run and search in `storage`, by name. What is damaged in one does not hide the others."""
    found = []
    for name in storage.list():
        folder = storage.child(name)
        if folder.exists("config.yaml"):
            found.append(_listed(name, folder))
        elif folder.exists(SEARCH):
            found.append(_searched(name, folder))
    return found


def _searched(name: str, folder: Folder) -> Listed:
    trials = [int(number) for number in folder.child("trials").list() if number.isascii() and number.isdigit()]
    heard = [read_status(folder.child(f"trials/{number:03d}")).get("heartbeat") for number in trials]
    latest = max(map(_number, heard), default=0.0)
    best = "-"
    try:
        winner = yaml.safe_load(folder.read(WINNER))
        metric = yaml.safe_load(folder.read(SEARCH))["tune"]["metric"]
        metric = str(metric[0] if isinstance(metric, list) else metric)
        best = f"{metric} {_number(winner['metrics'][metric]):.4g}"
        state = "searched"
    except FileNotFoundError:
        state = "search"
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        state = "searched"
    return Listed(name, state, 0.0, 0.0, best, time.time() - latest if latest else None, len(trials))


def _listed(name: str, folder: Folder) -> Listed:
    status = read_status(folder)
    try:
        lease = read_lease(folder)
    except OSError:
        lease = {}
    heard = max((_number(v) for v in (status.get("heartbeat"), lease.get("written"))), default=0.0)
    silent = time.time() - heard if heard else None
    state = str(status.get("state", "new"))
    if seems_held(lease):
        state = "training"
    elif state == "training" and (lease or silent is None or silent > SILENT_S):
        state = "interrupted"
    best = status.get("best")
    value = (
        f"{best['metric']} {_number(best['value']):.4g}"
        if isinstance(best, dict) and {"metric", "value"} <= best.keys()
        else "-"
    )
    return Listed(name, state, _number(status.get("kimg")), _number(status.get("total_kimg")), value, silent)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
