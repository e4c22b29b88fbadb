"""The runs in a storage, as a person wants to see them: how far, how good, and whether somebody still works on them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from distgan.storage import Folder
from distgan.training.lease import read_lease, seems_held
from distgan.training.logs import read_status

SILENT_S = 60.0
"""A run without a lease (a trial of a search) that has said nothing for so long is interrupted."""


@dataclass(frozen=True)
class Listed:
    """One run. `heartbeat_s` is the time since it was last heard of, by this machine's clock; None if it never was."""

    name: str
    state: str  # new, training, interrupted, stopped, failed, complete
    kimg: float
    total_kimg: float
    best: str
    heartbeat_s: float | None


def list_runs(storage: Folder) -> list[Listed]:
    """Every run in `storage`, by name. What is damaged in one run does not hide the others."""
    return [_listed(name, storage.child(name)) for name in storage.list() if storage.child(name).exists("config.yaml")]


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
    value = f"{best['metric']} {_number(best['value']):.4g}" if isinstance(best, dict) and {"metric", "value"} <= best.keys() else "-"
    return Listed(name, state, _number(status.get("kimg")), _number(status.get("total_kimg")), value, silent)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
