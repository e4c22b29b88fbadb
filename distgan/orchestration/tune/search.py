"""`distgan tune`: the search from its checks to the winner.

check space, data and networks -> Ray -> trials under Tune -> the best again with new seeds -> best.yaml, trials.csv,
plots

A search lies in STORAGE/NAME: search.yaml (its settings), trials/000 ... (each a run's folder), confirm/..., ray/
(Tune's state). Every start is a resume, as with runs.
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
from typing import Any

from distgan.config import ConfigError, RunConfig, RunError, dump_config, get_dotted, walk_fields
from distgan.kinds import get_kind, with_recipe
from distgan.orchestration.cluster import cluster
from distgan.orchestration.placement import Placement, _cpus, _fit, place
from distgan.orchestration.tune.settings_files import read_search
from distgan.orchestration.tune.space import Space, open_space
from distgan.runs.lease import Lease
from distgan.runs.listing import SEARCH
from distgan.storage import Folder

LIMITS = "limits.json"
RAYS_SHARE = 0.001
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
    "tune.trials",
    "tune.confirm",
    "tune.concurrent",
)


def search(config: RunConfig, *, replay: list[dict[str, Any]] | None = None) -> int:
    """Search, or go on with the search of this name; returns the exit status (130: interrupted, to be resumed).

    replay: a schedule of values, to be run once instead of a search. Raises ConfigError before Ray starts, RunError if
    no trial could be measured.
    """
    config = with_recipe(config)
    space = open_space(config)
    config, images = _check(config)
    space = replace(space, config=config)
    folder = Folder(config.storage).child(config.run_name)
    _claim(config, folder)
    _environment(config)
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
        board = run_trials(space, folder, "trials", placement, concurrent, plan)
        if not board.over:
            from distgan.orchestration.tune.results import write_results

            write_results(space, folder, board.rows, [])
            print(f"stopped; nothing is lost: {folder}\n  continue    {_again(config)}")
            return 130
        rows = board.rows
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


def run_trials(
    space: Space,
    folder: Folder,
    room: str,
    placement: Placement,
    concurrent: int,
    plan: list[dict[str, Any]] | None = None,
) -> Any:
    """Run the trials of a search (or of a plan) on the connected cluster until they end or the user stops them; returns
    the board.

    room: the folder of the trials' folders; Tune's state lies beside it in ray/ROOM.
    """
    from ray import tune

    from distgan.orchestration.tune.progress_table import Board, Budget, Watch
    from distgan.orchestration.tune.search_algorithm import Proposals, scheduler_of
    from distgan.orchestration.tune.trial import Trial, trial_config

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what matters of it is on the board and in trials.csv
    config, home, state = space.config, folder.child(room), folder.child("ray").child(room)
    proposals = Proposals(space, home, state, plan)
    trainable = tune.with_resources(
        tune.with_parameters(
            Trial, base=trial_config(config).model_dump(mode="json"), home=home.uri, placement=placement
        ),
        _resources(placement, concurrent),
    )
    board = Board(
        config, home, "search" if plan is None else "confirming" if room == "confirm" else "replay", proposals.total
    )
    limits = json.dumps({"trials": proposals.total, "time_s": config.tune.time_s, "total_kimg": config.tune.total_kimg})
    with board, _sigterm_as_ctrl_c():
        if _restorable(state, limits):
            tuner = tune.Tuner.restore(state.uri, trainable=trainable, resume_unfinished=True, resume_errored=True)
        else:
            state.write(LIMITS, limits)
            tuner = tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=proposals,
                    scheduler=scheduler_of(space) if plan is None else None,
                    num_samples=proposals.total,
                    reuse_actors=placement.most == 1,
                    trial_name_creator=_trial_name,
                    trial_dirname_creator=_trial_name,
                ),
                run_config=tune.RunConfig(
                    name=room,
                    storage_path=folder.child("ray").uri,
                    callbacks=[Watch()],
                    stop=Budget(config.tune.time_s, config.tune.total_kimg) if plan is None else None,
                    checkpoint_config=tune.CheckpointConfig(num_to_keep=4, checkpoint_at_end=False),
                    failure_config=tune.FailureConfig(max_failures=2),
                    verbose=0,
                ),
            )
        tuner.fit()
    return board


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
    wanted = min(tune.trials, tune.concurrent or tune.trials)
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
    room = sum(_fit(node, least, gpus) for node in nodes)
    if room < 1:
        place(shared.model_copy(update={"workers": 1}), nodes)  # says what is missing
    concurrent = max(1, min(wanted, room))
    cpus = config.ray.cpus_per_worker or _cpus(
        [n for n in nodes if n.get("CPU", 0) >= 1 and n.get("GPU", 0) >= gpus], concurrent, gpus
    )
    return Placement(1, 1, cpus, gpus), concurrent


def _resources(placement: Placement, concurrent: int) -> Any:
    """What Tune reserves for a trial. A share of the head node's own mark is its ticket: there are as many as trials at
    once.

    A trial of one worker reserves what the worker needs. One of several reserves nothing but the ticket, since Ray
    Train reserves for the workers: a CPU held by the trial could be the one that they wait for.
    """
    from ray import tune

    ticket = {"node:__internal_head__": _ticket(placement, concurrent)}
    if placement.most > 1:
        return tune.PlacementGroupFactory([{"CPU": 0, **ticket}])
    return tune.PlacementGroupFactory([placement.resources, ticket], strategy="PACK")


def _ticket(placement: Placement, concurrent: int) -> float:
    """A trial's share of the mark: so much that no further trial fits, and so little that Ray's own users of it do. A
    job takes RAYS_SHARE of it, and so does the actor that looks after the workers of each Ray Train run, without which
    they never start.
    """
    most = 1 / (concurrent + 0.5) - (RAYS_SHARE if placement.most > 1 else 0)
    return max(1, int(most * 10000)) / 10000


def _environment(config: RunConfig) -> None:
    """Read by Tune when it is imported."""
    os.environ.setdefault(
        "TUNE_GLOBAL_CHECKPOINT_S", "2"
    )  # what a killed driver can forget, at most; its trials are found again
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # trials have logs of their own
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    os.environ.setdefault("TUNE_FORCE_TRIAL_CLEANUP_S", "60")
    os.environ.setdefault(
        "RAY_IGNORE_UNHANDLED_ERRORS", "1"
    )  # of trials that are ended in mid-step; what matters is on the board
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    if config.tune.scheduler in ("pbt", "pb2"):
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(config.tune.trials)  # a population begins together


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
        before = read_search(folder.uri)
        names = [n for n, _ in walk_fields() if not n.startswith(_FREE)]
        more = "exactly" if config.tune.scheduler in ("pbt", "pb2") else "at least"
        if config.tune.trials < before.tune.trials or (more == "exactly" and config.tune.trials != before.tune.trials):
            raise ConfigError(
                f"tune.trials = {config.tune.trials}: search {folder} has begun; allowed: {more} {before.tune.trials}"
            )
        changed = [
            (n, get_dotted(before, n), get_dotted(config, n))
            for n in names
            if get_dotted(before, n) != get_dotted(config, n)
        ]
        if changed:
            lines = [f"{name} = {new!r}: search {folder} was started with {old!r}" for name, old, new in changed]
            raise ConfigError(
                "\n".join(lines) + "\nGive this search another --name, or `distgan tune --resume` the old one"
            )
    elif folder.exists("config.yaml"):
        raise ConfigError(f"name = {config.run_name!r}: {folder} is a run; give the search another --name")
    folder.write(SEARCH, dump_config(config.model_copy(update={"name": config.run_name})))


def _restorable(state: Folder, limits: str) -> bool:
    """Whether Tune can go on from its saved state. What a dying driver left half written is put away: an older state is
    used, or none, and then the trials' folders tell what was done. So it is where the limits have changed, which Tune
    cannot follow.
    """
    from distgan.orchestration.tune.search_algorithm import state_files

    same = state.exists(LIMITS) and state.read(LIMITS).decode() == limits
    for name in reversed(state_files(state)):
        try:
            if same and json.loads(state.read(name))["trial_data"] and state.exists("tuner.pkl"):
                return True
        except (OSError, ValueError, KeyError):
            pass
        state.remove(name)
    for name in state.list():
        state.remove(name)
    return False


def _check(config: RunConfig) -> tuple[RunConfig, str]:
    """Data, networks and storage; returns the config with what the data decides, and the images in words."""
    kind = get_kind(config.data)
    spec = kind.describe(config.data)
    config = config.for_classes(spec.n_classes if config.data.labels else 0)
    kind.check(config, spec)
    Folder(config.storage).check_writable()
    return config, kind.describe_in_words(spec)


# ---------------------------------------------------------------------------------------------------------------------
# Words, and the best again


def _confirm(space: Space, folder: Folder, rows: list[Any], nodes: list[dict[str, float]]) -> list[Any] | None:
    """The best trials run again with new seeds, and beside them the config's own values: what wins has to be better
    than those, and not by one lucky seed. None if it was stopped.
    """
    from distgan.orchestration.tune.trial_checkpoints import read_lineage

    tune = space.config.tune
    best = sorted((row for row in rows if row.measured), key=lambda row: row.objective)[: tune.confirm_top]
    if len(best) < 1 or not tune.confirm_top:
        return []
    best += [row for row in rows if row.preset and row.measured and row not in best]
    plan: list[dict[str, Any]] = []
    for row in best:
        schedule = read_lineage(folder.child(f"trials/{row.number:03d}")).get("schedule", [])
        for seed in range(1, tune.confirm_seeds + 1):
            entry = {"number": len(plan), "trial": row.number, "values": row.values, "preset": row.preset}
            plan.append({**entry, "seed": space.config.seed + seed})
            if tune.scheduler in ("pbt", "pb2") and not row.preset:
                plan[-1]["schedule"] = schedule
    if folder.exists("confirm/plan.json"):  # the plan of the first time holds
        plan = json.loads(folder.read("confirm/plan.json"))
    else:
        folder.write("confirm/plan.json", json.dumps(plan))
    names = ", ".join(str(row.number) for row in best)
    print(f"confirming trial{'s' if len(best) > 1 else ''} {names} with {tune.confirm_seeds} seeds each", flush=True)
    placement, concurrent = place_trials(
        space.config.model_copy(update={"tune": tune.model_copy(update={"trials": len(plan)})}), nodes
    )
    board = run_trials(space, folder, "confirm", placement, concurrent, plan)
    return [(entry["trial"], row) for entry, row in zip(plan, board.rows, strict=False)] if board.over else None


def _headline(space: Space, images: str, placement: Placement, concurrent: int) -> str:
    tune, config = space.config.tune, space.config
    budget = [f"{tune.trials} trials of {config.kimg:g} kimg"]
    budget += [f"{tune.total_kimg:g} kimg together"] if tune.total_kimg is not None else []
    budget += [f"{tune.time_s:g} s"] if tune.time_s is not None else []
    searcher = "random values, then exploration" if tune.scheduler in ("pbt", "pb2") else tune.searcher
    return (
        f"{images}; {', '.join(budget)} at most; {searcher}, {tune.scheduler}\n"
        f"{concurrent} trial{'s' if concurrent > 1 else ''} at once, of {placement}\n"
        f"searched: {', '.join(f'{key} {domain.text}' for key, domain in space.domains.items())}"
    )


def _again(config: RunConfig) -> str:
    where = "" if config.storage in ("./runs", "runs") else f" --storage '{config.storage}'"
    return f"distgan tune --resume {config.run_name}{where}"
