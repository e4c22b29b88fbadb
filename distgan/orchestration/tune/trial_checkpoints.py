"""Where a trial's weights come from: checkpoints that move between trials, and the values that they were trained with.

A trial's folder is a run's folder (config.yaml, checkpoints, metrics.jsonl, samples, generator), and ancestry.json once
it has taken over the weights of another trial.
"""

from __future__ import annotations

import json
import math
from typing import Any

from distgan.storage import Folder
from distgan.training.checkpoint import CHECKPOINTS, CheckpointStore

ANCESTRY = "ancestry.json"
STAGED = "exploit"
"""Folder in a trial's folder with the checkpoint that it is to take over."""


def measurements(folder: Folder, metric: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that hold this metric, oldest first; [] if there are none."""
    try:
        text = folder.read("metrics.jsonl").decode(errors="replace")
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except ValueError:  # a torn last line
            continue
        if isinstance(values, dict) and metric in values and "nimg" in values:
            lines.append(values)
    return lines


def read_ancestry(folder: Folder) -> dict[str, Any]:
    """Of a trial that took over another's weights, {nimg: at how many images it last did, exploits: how often,
    schedule: [{kimg, values, trial}], the values that its weights were trained with}; else {}.
    """
    try:
        found = json.loads(folder.read(ANCESTRY))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def stage_exploit(
    donor: Folder, taker: Folder, nimg: int, number: int, values: dict[str, Any], schedule: list[dict[str, Any]]
) -> bool:
    """Copy the donor's checkpoint at `nimg` images, or the next one, into the taker's folder; False if there is none.

    The bytes are copied at once, as the donor trains on and prunes. number and values: the taker's, from then on.
    schedule: of the donor's weights.
    """
    names = [name for name in CheckpointStore(donor).names() if int(name) >= nimg]
    if not names:
        return False
    staged, name = taker.child(STAGED), f"{CHECKPOINTS}/{names[0]}"
    taker.remove(STAGED)
    for file in ("state.pt", "manifest.json"):
        staged.write(f"{name}/{file}", donor.read(f"{name}/{file}"))
    begun = {"kimg": int(names[0]) / 1000, "values": values, "trial": number}
    exploits = read_ancestry(taker).get("exploits", 0) + 1
    ancestry = {"nimg": int(names[0]), "exploits": exploits, "schedule": [*schedule, begun]}
    staged.write(ANCESTRY, json.dumps(ancestry))  # last: without it the copy is not there
    return True


def take_exploit(folder: Folder) -> int | None:
    """Make a staged checkpoint the trial's state; returns its images, None if there is none.

    Weights, optimisers, averages and images seen are the donor's to the last bit; rates and betas follow from the
    taker's values.
    """
    staged = folder.child(STAGED)
    given = read_ancestry(staged)
    if not given:
        return None
    nimg = int(given["nimg"])
    if given != read_ancestry(folder):
        transplant(staged, folder, nimg)
        _forget_after(folder, nimg)
        folder.write(ANCESTRY, json.dumps(given))  # last, so that a taking that is cut short is done again
    folder.remove(STAGED)
    return nimg


def transplant(source: Folder, target: Folder, nimg: int) -> None:
    """Make the source's checkpoint at `nimg` images the only one of the target. The best so far was the source's, and
    is forgotten.
    """
    state = CheckpointStore(source).load(nimg)[1]
    for name in CheckpointStore(target).names():
        target.remove(f"{CHECKPOINTS}/{name}/manifest.json")
        target.remove(f"{CHECKPOINTS}/{name}")
    store = CheckpointStore(target)
    store.save(nimg, {**state, "best": {}})
    store.wait()


def _forget_after(folder: Folder, nimg: float) -> None:
    """Drop the lines of metrics.jsonl past a checkpoint."""
    if not folder.exists("metrics.jsonl"):
        return
    kept = []
    for line in folder.read("metrics.jsonl").decode(errors="replace").splitlines():
        try:
            if float(json.loads(line).get("nimg", math.inf)) <= nimg:
                kept.append(line)
        except ValueError:
            continue
    folder.write("metrics.jsonl", "".join(f"{line}\n" for line in kept))
