"""What a search leaves behind: best.yaml, winner.yaml, trials.csv, confirm.csv, importance.csv, plots, TensorBoard with
HParams.
"""

from __future__ import annotations

import csv
import io
import math
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from distgan.config import RunConfig, TuneConfig, dump_config
from distgan.orchestration.tune.plots import curves, parallel
from distgan.orchestration.tune.progress_table import describe
from distgan.orchestration.tune.space import Space
from distgan.orchestration.tune.trial_checkpoints import measurements, read_ancestry
from distgan.orchestration.tune.trial_records import Row
from distgan.registry import objectives
from distgan.runs.prepare import in_a_job
from distgan.runs.progress import storage_option
from distgan.storage import Folder
from distgan.text import command

Confirmed = Sequence[tuple[int, Row]]
"""(number of the trial, its run with another seed)"""


def write_results(space: Space, folder: Folder, rows: list[Row], confirmed: Confirmed) -> Row | None:
    """Write all files from the trials as they stand; returns the winner, None if nothing was measured yet.

    The winner is the trial with the best median over the confirming runs, or without those the trial with the best
    measurement.
    """
    metric = space.config.tune.metric[0]
    names = list(space.domains)
    folder.write("trials.csv", _table(rows, names))
    if confirmed:
        folder.write(
            "confirm.csv", _table([row for _, row in confirmed], names, trial=[number for number, _ in confirmed])
        )
    measured = [row for row in rows if row.measured]
    shares = importance(space, rows)
    if shares:
        folder.write(
            "importance.csv",
            "setting,importance\n" + "".join(f"{name},{share:.4f}\n" for name, share in shares.items()),
        )
    trials = {row.number: measurements(folder.child(f"trials/{row.number:03d}"), metric) for row in rows}
    _tensorboard(space, folder, rows, trials)
    if not measured:
        return None
    folder.write("curves.png", curves(rows, trials, metric))
    folder.write("parallel.png", parallel(space, rows, metric))
    winner = pick(rows, confirmed)
    _write_best(space, folder, winner)
    return winner


def pick(rows: list[Row], confirmed: Confirmed) -> Row:
    """The winner among measured trials."""
    medians = {number: statistics.median(found) for number, found in objectives_by_trial(confirmed).items()}
    candidates = [row for row in rows if row.measured and (not medians or row.number in medians)]
    return min(candidates, key=lambda row: (medians.get(row.number, row.objective), row.objective))


def objectives_by_trial(confirmed: Confirmed) -> dict[int, list[float]]:
    """The objectives of each confirmed trial, one a seed."""
    found: dict[int, list[float]] = {}
    for number, row in confirmed:
        found.setdefault(number, []).append(row.objective)
    return found


def importance(space: Space, rows: list[Row]) -> dict[str, float]:
    """How much each searched setting mattered, shares of 1, by PED-ANOVA (Watanabe, Bansal, Hutter: PED-ANOVA, IJCAI
    2023).

    {} with fewer than 8 measured trials, of which nothing could be said, or where a setting took one value only.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {key: domain.distribution() for key, domain in space.domains.items()}
    study = optuna.create_study()
    for row in rows:
        if math.isfinite(row.objective) and all(
            domain.holds(row.values.get(key)) for key, domain in space.domains.items()
        ):
            study.add_trial(
                optuna.trial.create_trial(params=row.values, distributions=distributions, value=row.objective)
            )
    if len(study.trials) < 8:
        return {}
    try:
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    except (RuntimeError, ValueError):
        return {}
    return {key: float(value) for key, value in found.items()}


def _write_best(space: Space, folder: Folder, winner: Row) -> None:
    config = space.apply(winner.values, baseline=winner.baseline)
    budget = max(config.kimg, float(RunConfig.model_fields["kimg"].default))
    storage = config.storage
    if Folder(storage).is_local and not in_a_job():
        storage = os.path.abspath(os.path.expanduser(storage))
    plain: RunConfig = config.model_copy(
        update={"name": f"{config.run_name}-best", "tune": TuneConfig(), "kimg": budget, "storage": storage}
    )
    head = f"# What the search {config.run_name} found in trials of {config.kimg:g} kimg, with the budget of a run.\n"
    folder.write("best.yaml", head + dump_config(plain))
    place = f"trials/{winner.number:03d}"
    found: dict[str, Any] = {"trial": winner.number, "folder": place, "kimg": winner.kimg}
    found |= {"metrics": winner.metrics, "values": winner.values}
    schedule = read_ancestry(folder.child(place)).get("schedule", [])
    if len(schedule) > 1:  # what a population made of it: the values that the winner's weights were trained with
        found["schedule"] = schedule
    folder.write("winner.yaml", yaml.safe_dump(found, sort_keys=False))


def _table(rows: list[Row], names: list[str], trial: list[int] | None = None) -> str:
    text = io.StringIO()
    metrics = sorted({key for row in rows for key in row.metrics})
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *(["trial", "seed"] if trial else ["trial"]),
            "state",
            "kimg",
            *metrics,
            "seconds",
            *names,
            "baseline",
            "error",
        ]
    )
    for i, row in enumerate(rows):
        start = [trial[i], row.seed] if trial else [row.number]
        found = [row.metrics.get(key, "") if row.measured else "" for key in metrics]
        values = [row.values.get(name, "") for name in names]
        writer.writerow(
            [*start, row.state, row.kimg, *found, round(row.seconds, 2), *values, int(row.baseline), row.error]
        )
    return text.getvalue()


def _tensorboard(space: Space, folder: Folder, rows: list[Row], trials: dict[int, list[dict[str, Any]]]) -> None:
    """Each trial's curves and, in the HParams tab, its values: tensorboard/007."""
    # TensorBoard's own writer: those of torch and tensorboardX would import torch into the driver
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    def points(values: dict[str, Any]) -> Summary:
        found = {name: value for name, value in values.items() if isinstance(value, int | float)}
        return Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in found.items()])

    with tempfile.TemporaryDirectory() as place:
        for row in rows:
            writer = EventFileWriter(f"{place}/{row.number:03d}")
            kinds = (bool, int, float, str)
            values = {key: value if isinstance(value, kinds) else str(value) for key, value in row.values.items()}
            writer.add_event(Event(summary=hparams_pb(values, trial_id=f"{row.number:03d}")))
            for line in trials[row.number]:
                step, curves = int(line["nimg"]), {k: v for k, v in line.items() if k not in ("nimg", "kimg", "time")}
                writer.add_event(Event(summary=points(curves), step=step, wall_time=line.get("time", 0.0)))
            reached = {f"hparam/{key}": value for key, value in row.metrics.items() if row.measured}
            writer.add_event(Event(summary=points(reached), step=round(row.kimg * 1000)))
            writer.close()
        folder.remove("tensorboard")
        folder.upload(Path(place), "tensorboard")


def final_words(space: Space, folder: Folder, rows: list[Row], confirmed: Confirmed, winner: Row | None) -> str:
    """Which trial won, by how much, and what to type next."""
    assert winner is not None
    config, metric = space.config, space.config.tune.metric[0]
    sign = -1 if metric in objectives("higher") else 1
    counts = {state: sum(row.state == state for row in rows) for state in ("done", "stopped", "diverged", "failed")}
    ended = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    lines = [f"{len(rows)} trial{'s' if len(rows) > 1 else ''}: {ended}"]
    seeds = {number: [sign * value for value in found] for number, found in objectives_by_trial(confirmed).items()}
    for number in sorted(seeds, key=lambda n: statistics.median(objectives_by_trial(confirmed)[n])):
        found = seeds[number]
        spread = f" ± {statistics.stdev(found):.2g}" if len(found) > 1 else ""
        row = next(row for row in rows if row.number == number)
        lines.append(
            f"  trial {number:3d}  {metric.upper()} median {statistics.median(found):.4g}, mean "
            f"{statistics.mean(found):.4g}{spread} over {len(found)} seeds  {describe(row)}"
        )
    lines.append(
        f"best: trial {winner.number}, {metric.upper()} {sign * winner.objective:.4g} at {winner.kimg:g} kimg  "
        f"{describe(winner)}"
    )
    shares = importance(space, rows)
    if shares:
        lines.append("mattered most: " + ", ".join(f"{name} {share:.0%}" for name, share in list(shares.items())[:4]))
    train = ["distgan", "train", "--config", f"{folder}/best.yaml"]
    search = [config.run_name, *storage_option(config)]
    on = [*train, "--finetune", *search, "--name", f"{config.run_name}-on"]
    lines += [
        f"  settings    {folder}/best.yaml",
        f"  trials      {folder}/trials.csv, curves.png, parallel.png",
        f"  compare     {command('tensorboard', '--logdir', folder.child('tensorboard'))}",
        f"  train       {command(*train)}",
        f"  train on    {command(*on)}",
    ]
    if len(read_ancestry(folder.child(f"trials/{winner.number:03d}")).get("schedule", [])) > 1:
        replay = command("distgan", "tune", "--replay", *search, "--name", f"{config.run_name}-replay")
        lines.append(f"  replay      {replay}")
    return "\n".join(lines)
