"""`distgan tune`: the search from its checks to the winner.

check space, data and networks -> Ray -> trials under Tune -> the best again with new seeds -> best.yaml, trials.csv,
plots

A search lies in STORAGE/NAME: search.yaml (its settings), trials/000 ... (each a run's folder), confirm/... Every start
is a resume, as with runs: what ended is not run again, what did not goes on from its folder. ray/ is Tune's, for this
start alone.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from distgan.config import ConfigError, RunConfig, RunError, dump_config, get_dotted, walk_fields
from distgan.export.best_trial import SEARCH
from distgan.kinds import get_kind, open_samples, settled, with_recipe
from distgan.orchestration.cluster import cluster
from distgan.orchestration.placement import Placement, _cpus, _fit, place
from distgan.orchestration.tune.settings_files import read_search
from distgan.orchestration.tune.space import Space, open_space
from distgan.runs.beginning import COPY, check_source, copy_source, inherited
from distgan.runs.lease import Lease
from distgan.runs.prepare import at_home
from distgan.runs.progress import storage_option
from distgan.storage import Folder
from distgan.text import command
from distgan.training.threads import share_cores

if TYPE_CHECKING:
    from distgan.orchestration.tune.progress_table import ProgressTable
    from distgan.training.finetune import Source

# May change between a search's start and its continuation
_FREE = (
    "name",
    "storage",
    "engine",
    "ray.",
    "log.",
    "data.cache",
    "data.root",
    "tune.time_s",
    "tune.total_kimg",
    "tune.num_samples",
    "tune.confirm",
    "tune.max_concurrent_trials",
)


def search(config: RunConfig, *, replay: list[dict[str, Any]] | None = None) -> int:
    """Search, or go on with the search of this name; returns the exit status (130: interrupted, to be resumed).

    replay: a schedule of values, to be run once instead of a search. Raises ConfigError before Ray starts, RunError if
    no trial could be measured.
    """
    if config.minutes is not None:
        raise ConfigError(
            f"minutes = {config.minutes:g}: the trials of a search are compared at the same number of images; allowed: "
            "kimg of each trial, and tune.time_s for all together"
        )
    if config.training.patience is not None and config.tune.scheduler == "pbt":
        raise ConfigError(
            f"training.patience = {config.training.patience}: the trials of a population change their values together "
            "up to the end; allowed with pbt: null"
        )
    folder = Folder(config.storage).child(config.run_name)
    if config.finetune is not None:
        share_cores()  # before torch, which looks at the weights
    before = at_home(read_search(folder.uri)) if folder.exists(SEARCH) else None
    config, source = inherited(at_home(config), before, folder.child(COPY))
    config = _decided(with_recipe(config))
    space = open_space(config)
    config, images = _check(config, source)
    space = replace(space, config=config)
    _claim(config, folder)
    if source is not None:
        copy_source(source, config, folder.child(COPY))
    _environment()
    with Lease(folder), cluster(config.ray) as found:
        placement, concurrent = place_trials(config, found.nodes)
        if replay:
            print(
                f"{images}; {config.kimg:g} kimg of {placement}, with values that change {len(replay) - 1} times",
                flush=True,
            )
        else:
            print(_headline(space, images, placement, concurrent), flush=True)
        plan = [{"number": 0, "values": replay[-1]["values"], "schedule": replay}] if replay else None
        table = run_trials(space, folder, "trials", placement, concurrent, plan)
        if not table.over:
            from distgan.orchestration.tune.results import write_results

            write_results(space, folder, table.rows, [])
            print(f"stopped; nothing is lost: {folder}\n  continue    {_again(config)}")
            return 130
        rows = table.rows
        if not any(row.measured for row in rows):
            reasons = sorted({row.error for row in rows if row.error})
            if not reasons and any(row.state == "diverged" for row in rows):
                reasons = ["all diverged; search lower rates, or add loss.r1_gamma"]
            reasons = reasons or [
                "the budget was spent before the first measurement; give more tune.time_s or tune.total_kimg"
            ]
            raise RunError(f"{folder}: no trial could be measured: {'; '.join(reasons)}")
        confirmed = [] if replay else _confirm(space, folder, rows, found.nodes)
        if confirmed is None:
            print(f"stopped while confirming; nothing is lost: {folder}\n  continue    {_again(config)}")
            return 130
    from distgan.orchestration.tune.results import final_words, write_results

    winner = write_results(space, folder, rows, confirmed)
    print(final_words(space, folder, rows, confirmed, winner))
    return 0


def _decided(config: RunConfig) -> RunConfig:
    """The config that a search begins with: where penalties are `auto` they are numbers that trials can vary, those of
    the data where this machine reads them, else 1.
    """
    if not (config.ray.address or os.environ.get("RAY_ADDRESS")):
        config, _ = settled(config, open_samples(config.data))
    r1, r2 = config.loss.gammas
    return config.model_copy(update={"loss": config.loss.model_copy(update={"r1_gamma": r1, "r2_gamma": r2})})


def run_trials(
    space: Space,
    folder: Folder,
    directory: str,
    placement: Placement,
    concurrent: int,
    plan: list[dict[str, Any]] | None = None,
) -> ProgressTable:
    """Run the trials of a search (or of a plan) on the connected cluster until they end or the user stops them; returns
    their table.

    directory: that of the trials' folders, in `folder`. What ended in an earlier start of the search is not run again.
    """
    from ray import tune

    from distgan.orchestration.tune.progress_table import Budget, ProgressTable, Watch
    from distgan.orchestration.tune.schedulers import scheduler_of
    from distgan.orchestration.tune.search_algorithm import GANSearch
    from distgan.orchestration.tune.trial import Trial, trial_config
    from distgan.orchestration.tune.trial_records import TrialRecords

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what matters of it is in the table and in trials.csv
    config, limits = space.config, space.config.tune
    records = TrialRecords(config, folder, directory)
    total = len(plan) if plan else space.grid_size if space.pure_grid else limits.num_samples
    budget = Budget(folder, *((limits.time_s, limits.total_kimg) if plan is None else (None, None)))
    title = "search" if plan is None else "confirming" if directory == "confirm" else "replay"
    budget.table = table = ProgressTable(config, records, title, total, budget)
    numbers = [number for number in range(total) if records.ended(number) is None]
    if not numbers or table.spent:
        return table
    trainable = tune.with_parameters(
        Trial,
        base=trial_config(config).model_dump(mode="json"),
        home=records.home.uri,
        placement=placement,
        working_folder=os.getcwd(),
        source=folder.child(COPY).uri,
    )
    scheduler = scheduler_of(space, records, total, concurrent) if plan is None else None
    folder.remove(f"ray/{directory}")  # Tune's own state of an earlier start, which nothing reads
    tuner = tune.Tuner(
        tune.with_resources(trainable, _resources(placement)),
        tune_config=tune.TuneConfig(
            search_alg=GANSearch(space, records, numbers, table.paused, plan),
            scheduler=scheduler,
            num_samples=len(numbers),
            max_concurrent_trials=concurrent,
            reuse_actors=placement.most == 1,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=directory,
            storage_path=folder.child("ray").uri,
            callbacks=[Watch(table)],
            stop=budget,
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1, checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=2),
            verbose=0,
        ),
    )
    with table, _sigterm_as_ctrl_c():
        tuner.fit()
    return table


def _trial_name(trial: Any) -> str:
    return f"{trial.config['number']:03d}"


# ---------------------------------------------------------------------------------------------------------------------
# Resources


def place_trials(config: RunConfig, nodes: list[dict[str, float]]) -> tuple[Placement, int]:
    """(workers of one trial, trials at once). What is asked for at once always fits, so no trial waits for another's
    resources.

    `workers: auto` is one worker a trial: several trials side by side learn more than one trial that is trained faster.
    """
    tune = config.tune
    wanted = min(tune.num_samples, tune.max_concurrent_trials or tune.num_samples)
    gpus = config.ray.gpus_per_worker
    if gpus is None:
        gpus = 1.0 / tune.trials_per_gpu if any(node.get("GPU", 0) >= 1 for node in nodes) else 0.0
    shared = config.model_copy(update={"ray": config.ray.model_copy(update={"gpus_per_worker": gpus})})
    if config.workers != "auto" and config.workers != 1:
        cpus = config.ray.cpus_per_worker or 1
        placement = place(
            shared.model_copy(update={"ray": shared.ray.model_copy(update={"cpus_per_worker": cpus})}), nodes
        )
        fit = sum(_fit(node, placement.cpus, placement.gpus) for node in nodes) // placement.fewest
        return Placement(placement.fewest, placement.fewest, placement.cpus, placement.gpus), max(1, min(wanted, fit))
    least = config.ray.cpus_per_worker or 1
    most = sum(_fit(node, least, gpus) for node in nodes)
    if most < 1:
        place(shared.model_copy(update={"workers": 1}), nodes)  # says what is missing
    concurrent = max(1, min(wanted, most))
    cpus = config.ray.cpus_per_worker or _cpus(
        [n for n in nodes if n.get("CPU", 0) >= 1 and n.get("GPU", 0) >= gpus], concurrent, gpus
    )
    return Placement(1, 1, cpus, gpus), concurrent


def _resources(placement: Placement) -> Any:
    """What Tune reserves for a trial.

    A trial of one worker reserves what the worker needs. One of several reserves a little memory and no CPU, since Ray
    Train reserves for the workers: a CPU held by the trial could be the one that they wait for.
    """
    from ray import tune

    return tune.PlacementGroupFactory([placement.resources if placement.most == 1 else {"CPU": 0, "memory": 2**20}])


def _environment() -> None:
    """Read by Tune when it is imported, or by its workers."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # trials have logs of their own
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    os.environ.setdefault("TUNE_FORCE_TRIAL_CLEANUP_S", "60")
    # Of trials that are ended in mid-step; what matters is in the table
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Tune ends a search cleanly on Ctrl-C; a SIGTERM (a job that is stopped) does the same."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ---------------------------------------------------------------------------------------------------------------------
# What is there already


def _claim(config: RunConfig, folder: Folder) -> None:
    """Take the folder for this search, or go on with the same search. Another one there is an error."""
    if folder.exists(SEARCH):
        before = at_home(read_search(folder.uri))
        names = [n for n, _ in walk_fields() if not n.startswith(_FREE)]
        more = "exactly" if config.tune.scheduler == "pbt" else "at least"
        if config.tune.num_samples < before.tune.num_samples or (
            more == "exactly" and config.tune.num_samples != before.tune.num_samples
        ):
            raise ConfigError(
                f"tune.num_samples = {config.tune.num_samples}: search {folder} has begun; allowed: {more} "
                f"{before.tune.num_samples}"
            )
        changed = [
            (n, get_dotted(before, n), get_dotted(config, n))
            for n in names
            if get_dotted(before, n) != get_dotted(config, n)
        ]
        if changed:
            lines = [f"{name} = {new!r}: search {folder} was started with {old!r}" for name, old, new in changed]
            raise ConfigError(
                "\n".join(lines) + f"\nGive this search another --name, or go on with the old one: `{_again(config)}`"
            )
    elif folder.exists("config.yaml"):
        raise ConfigError(f"name = {config.run_name!r}: {folder} is a run; give the search another --name")
    folder.write(SEARCH, dump_config(config.model_copy(update={"name": config.run_name})))


def _check(config: RunConfig, source: Source | None) -> tuple[RunConfig, str]:
    """Data, networks and storage; returns the config with what the data decides, and the images in words."""
    kind = get_kind(config.data)
    spec = kind.describe(config.data)
    config = config.for_classes(spec.n_classes if config.data.labels else 0)
    kind.check(config, spec)
    if source is not None:
        check_source(config, spec, source)
    Folder(config.storage).check_writable()
    return config, kind.describe_in_words(spec)


# ---------------------------------------------------------------------------------------------------------------------
# Words, and the best again


def _confirm(space: Space, folder: Folder, rows: list[Any], nodes: list[dict[str, float]]) -> list[Any] | None:
    """The best trials run again with new seeds, and beside them the baseline: what wins has to be better
    than those, and not by one lucky seed. None if it was stopped.
    """
    from distgan.orchestration.tune.trial_checkpoints import read_ancestry

    tune = space.config.tune
    best = sorted((row for row in rows if row.measured), key=lambda row: row.objective)[: tune.confirm_top]
    if len(best) < 1 or not tune.confirm_top:
        return []
    best += [row for row in rows if row.baseline and row.measured and row not in best]
    plan: list[dict[str, Any]] = []
    for row in best:
        schedule = read_ancestry(folder.child(f"trials/{row.number:03d}")).get("schedule", [])
        for seed in range(1, tune.confirm_seeds + 1):
            entry = {"number": len(plan), "trial": row.number, "values": row.values, "baseline": row.baseline}
            plan.append({**entry, "seed": space.config.seed + seed})
            if tune.scheduler == "pbt" and not row.baseline:
                plan[-1]["schedule"] = schedule
    if folder.exists("confirm/plan.json"):  # the plan of the first time holds
        plan = json.loads(folder.read("confirm/plan.json"))
    else:
        folder.write("confirm/plan.json", json.dumps(plan))
    names = ", ".join(str(row.number) for row in best)
    print(f"confirming trial{'s' if len(best) > 1 else ''} {names} with {tune.confirm_seeds} seeds each", flush=True)
    placement, concurrent = place_trials(
        space.config.model_copy(update={"tune": tune.model_copy(update={"num_samples": len(plan)})}), nodes
    )
    table = run_trials(space, folder, "confirm", placement, concurrent, plan)
    return [(entry["trial"], row) for entry, row in zip(plan, table.rows, strict=False)] if table.over else None


def _headline(space: Space, images: str, placement: Placement, concurrent: int) -> str:
    tune, config = space.config.tune, space.config
    budget = [f"{tune.num_samples} trials of {config.kimg:g} kimg"]
    budget += [f"{tune.total_kimg:g} kimg together"] if tune.total_kimg is not None else []
    budget += [f"{tune.time_s:g} s"] if tune.time_s is not None else []
    searcher = "random values, then exploration" if tune.scheduler == "pbt" else tune.searcher
    return (
        f"{images}; {', '.join(budget)} at most; {searcher}, {tune.scheduler}\n"
        f"{concurrent} trial{'s' if concurrent > 1 else ''} at once, of {placement}\n"
        f"searched: {', '.join(f'{key} {domain.text}' for key, domain in space.domains.items())}"
    )


def _again(config: RunConfig) -> str:
    return command("distgan", "tune", "--resume", config.run_name, *storage_option(config))
