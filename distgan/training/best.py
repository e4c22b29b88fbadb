"""What comes out of a run: which generator is the best one, and the files it is kept in."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

from distgan.config import RunConfig
from distgan.export.generator import save_generator
from distgan.kinds import SampleSet, kind_name
from distgan.storage import Folder
from distgan.text import count
from distgan.training.checkpoint import CheckpointDamagedError, CheckpointStore
from distgan.training.measurement import Measurement
from distgan.training.state import TrainState


def measure_averages(
    measure: Measurement, state: TrainState, config: RunConfig, last: bool
) -> tuple[int, dict[str, float]]:
    """(which average, its metrics): the first one during the run; at the end the best of all."""
    n = config.metrics.final_samples if last else config.metrics.samples
    results = [measure(G, n) for G in (state.ema.modules if last else state.ema.modules[:1])]
    key = config.checkpoint.best_metric
    chosen = min(range(len(results)), key=lambda i: results[i].get(key, math.inf))
    return chosen, results[chosen]


def note_best(state: TrainState, measured: dict[str, float], chosen: int, metric: str) -> bool:
    """Remember where the best metric was; True if it is here."""
    found = measured.get(metric)
    if found is None or not math.isfinite(found) or (state.best and found >= state.best["value"]):
        return False
    state.best = {"metric": metric, "value": found, "nimg": state.nimg, "ema": chosen}
    return True


def count_waiting(state: TrainState, is_best: bool) -> None:
    """After a measurement: how many there were in a row that were no better than the best one."""
    state.waited = 0 if is_best else state.waited + 1


def early_stop(state: TrainState) -> str:
    """What is told where a run ends so."""
    waited = count(state.waited, "measurement")
    best = state.best
    where = f"; the best was {best['value']:.4g} at {best['nimg'] / 1000:g} kimg" if best else ""
    metric = best.get("metric", "value").upper()
    return f"early stop at {state.nimg / 1000:g} kimg: no better {metric} in {waited} (training.patience){where}"


def export_best(state: TrainState, store: CheckpointStore, samples: SampleSet, config: RunConfig) -> None:
    """The final generator: the average with the best metric of the whole run, or the last one if nothing was
    measured.
    """
    saved = state.state_dict()
    if state.best and state.best["nimg"] != state.nimg:
        try:
            saved = store.load(state.best["nimg"])[1]
        except CheckpointDamagedError as error:
            warnings.warn(f"{error}; exporting the last generator in its place", stacklevel=2)
    which = saved["best"].get("ema", 0) if saved["best"].get("nimg") == saved["nimg"] else 0
    export_generator(store.folder, saved, samples, config, which)


def export_generator(folder: Folder, saved: dict[str, Any], samples: SampleSet, config: RunConfig, which: int) -> None:
    """Write the average of G number `which` of a checkpoint, as a generator for people."""
    spec = samples.spec
    if config.model.conditioning == "none":
        spec = dataclasses.replace(spec, classes=(), class_counts=())
    prefix = f"{config.training.ema_half_life_kimg[which]:g}/"
    save_generator(
        folder.child("generator"),
        {name.removeprefix(prefix): tensor for name, tensor in saved["ema"].items() if name.startswith(prefix)},
        config.model,
        kind=kind_name(config.data),
        spec=spec,
        info={
            "run": config.run_name,
            "data": samples.spec.name,
            "kimg": saved["nimg"] / 1000,
            "seed": config.seed,
            "ema_half_life_kimg": config.training.ema_half_life_kimg[which],
            "best": saved["best"],
        },
    )
