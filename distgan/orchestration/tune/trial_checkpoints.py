"""Where a trial's weights come from: checkpoints that move between trials, and the values that they were trained with.

A trial's folder is a run's folder (config.yaml, checkpoints, metrics.jsonl, samples, generator) with a lineage.json
beside it. What Tune keeps as a trial's checkpoint has the same shape, so that giving and taking are one operation. The
bytes travel with it: the giver trains on and prunes, and the taker may come later.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from typing import Any

from distgan.config import ConfigError, RunConfig
from distgan.storage import Folder
from distgan.training.checkpoint import CHECKPOINTS, CheckpointStore

LINEAGE = "lineage.json"


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


def read_lineage(folder: Folder) -> dict[str, Any]:
    """{token: what was last taken over, adopted: how often, nimg: images at that, schedule: [{kimg, values,
    trial}]}.
    """
    try:
        found = json.loads(folder.read(LINEAGE))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def begin(folder: Folder, number: int, values: dict[str, Any]) -> None:
    """A trial from scratch, or one that goes on: nothing that another trial gave it may be left."""
    found = read_lineage(folder)
    if found and not found.get("adopted"):
        return
    if found:
        for name in (CHECKPOINTS, "metrics.jsonl", "generator"):
            folder.remove(name)
    schedule = [{"kimg": 0.0, "values": values, "trial": number}]
    folder.write(LINEAGE, json.dumps({"number": number, "token": None, "adopted": 0, "nimg": 0, "schedule": schedule}))


def give(folder: Folder, target: Folder, at_least: int, patience_s: float = 120.0) -> int:
    """Copy the newest intact checkpoint with its lineage to `target`; returns its images.

    It waits until a checkpoint at `at_least` images is in storage. Raises ConfigError if there is none at all.
    """
    store, deadline = CheckpointStore(folder), time.monotonic() + patience_s
    while at_least and not any(int(n) >= at_least for n in store.names()) and time.monotonic() < deadline:
        time.sleep(0.1)
    found = store.newest()
    if found is None:
        raise ConfigError(f"{folder}: no intact checkpoint there")
    name = f"{CHECKPOINTS}/{found[0]:012d}"
    for file in ("state.pt", "manifest.json"):
        target.write(f"{name}/{file}", folder.read(f"{name}/{file}"))
    target.write(LINEAGE, json.dumps({**read_lineage(folder), "token": uuid.uuid4().hex, "nimg": found[0]}))
    return found[0]


def take(folder: Folder, source: Folder, number: int, values: dict[str, Any]) -> int:
    """Make a given checkpoint the trial's state, unless it is so already; returns the images at which it was given.

    Weights, optimisers, averages and images seen are the giver's to the last bit; rates and betas follow from the
    taker's values.
    """
    given, here = read_lineage(source), read_lineage(folder)
    own = given.get("number") == number
    if here and ((own and given["adopted"] == here["adopted"]) or given["token"] == here.get("token")):
        return int(given["nimg"])  # the trial goes on after a pause or a crash, perhaps from further on
    schedule = given["schedule"]
    if not own:
        schedule = [*schedule, {"kimg": given["nimg"] / 1000, "values": values, "trial": number}]
    transplant(source, folder, int(given["nimg"]))
    _forget_after(folder, given["nimg"])
    adopted = given["adopted"] if own else here.get("adopted", 0) + 1
    # Last, so that a taking that is cut short is done again
    folder.write(
        LINEAGE,
        json.dumps(
            {"number": number, "token": given["token"], "adopted": adopted, "nimg": given["nimg"], "schedule": schedule}
        ),
    )
    return int(given["nimg"])


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


def check_warm_start(source: str, config: RunConfig) -> Folder:
    """The folder of the weights to begin with. Raises ConfigError if it holds none that fit the config's networks."""
    from distgan.orchestration.tune.settings_files import find_trial
    from distgan.runs.prepare import differences, read_run_config

    folder = find_trial(source, config.storage)
    before = read_run_config(folder)
    theirs = config.for_classes(0) if before.model.conditioning == "none" else config.for_classes(2)
    fixed = ("model.", "data.resolution", "data.channels", "training.ema_half_life_kimg")
    lines = [
        f"{name} = {new!r}: {folder} has {old!r}"
        for name, old, new in differences(before, theirs)
        if name.startswith(fixed)
    ]
    if lines:
        lines.append(
            f"--warm-start {source}: its networks are others; use the settings of that run (--config best.yaml)"
        )
        raise ConfigError("\n".join(lines))
    names = CheckpointStore(folder).names()
    if names and int(names[-1]) >= config.total_images:
        raise ConfigError(
            f"kimg = {config.kimg:g}: the warm start is at {int(names[-1]) / 1000:g} kimg already; give --kimg above "
            "that"
        )
    return folder


def begin_warm(source: str, config: RunConfig, target: Folder) -> str:
    """Let a new run begin with the newest intact checkpoint of another: weights, optimisers, averages and images
    seen.
    """
    folder = check_warm_start(source, config)
    found = CheckpointStore(folder).newest()
    if found is None:
        raise ConfigError(
            f"--warm-start {source}: no intact checkpoint there; give a run, a trial, or a search with a winner"
        )
    transplant(folder, target, found[0])
    return f"going on from {folder} at {found[0] / 1000:g} kimg"


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
