"""Who proposes a trial's values, and who stops or replaces trials: Ray Tune's engines, set up for GANs.

Trials are numbered; number 0 has the config's own values. What is proposed for a number is written down in storage
first (trials/007/trial.json), so that a search whose driver died proposes the same again and loses nothing.
"""

from __future__ import annotations

import json
import pickle
import random
from types import SimpleNamespace
from typing import Any

import optuna
from ray.train._internal.session import _FutureTrainingResult
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import Searcher

from distgan.orchestration.tune.space import Space
from distgan.orchestration.tune.trial import OBJECTIVE, WORST, interval_kimg, objective_names
from distgan.storage import Folder

RECORD = "trial.json"


class Proposals(Searcher):  # type: ignore[misc]
    """Values for trials 0, 1, 2, ...: random or in a grid's order, or by optuna's TPE from what earlier trials
    reached.
    """

    def __init__(self, space: Space, home: Folder, state: Folder, plan: list[dict[str, Any]] | None = None) -> None:
        """home: the folder of trials. state: Tune's own folder, for what it knows after a restart. plan: configs to run
        as they are.
        """
        super().__init__(metric=OBJECTIVE, mode="min")
        config = space.config
        self.space, self.home, self.state, self.plan = space, home, state, plan
        self.total = len(plan) if plan else space.grid_size if space.pure_grid else config.tune.trials
        self.learns = plan is None and config.tune.searcher == "optuna" and config.tune.scheduler not in ("pbt", "pb2")
        self.next = 0
        self.asked: dict[str, int] = {}  # Tune's trial -> the study's
        self.numbers: dict[str, dict[str, Any]] = {}  # Tune's trial -> its config
        names = objective_names(config)
        self.study: Any = None
        if self.learns:
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            sampler = optuna.samplers.TPESampler(seed=config.seed, constant_liar=True, multivariate=True)
            self.study = optuna.create_study(sampler=sampler, directions=["minimize"] * len(names))

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.next >= self.total:
            return str(Searcher.FINISHED)
        number, self.next = self.next, self.next + 1
        if self.plan is not None:
            proposal = self.plan[number]
        else:
            values = self._recorded(number)
            if self.learns and number > 0:
                if values is not None:
                    self.study.enqueue_trial(values)
                asked = self.study.ask(self._distributions())
                self.asked[trial_id], values = asked.number, dict(asked.params)
            values = values or self.space.draw(number, self.space.config.seed)
            proposal = {"number": number, "values": values, "preset": number == 0}
        self.home.write(f"{number:03d}/{RECORD}", json.dumps(proposal))
        self.numbers[trial_id] = proposal
        return proposal

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        proposal = self.numbers.get(trial_id)
        if not self.learns or proposal is None:
            return
        reached = [float((result or {}).get(name, WORST)) for name in objective_names(self.space.config)]
        if trial_id in self.asked:
            state = optuna.trial.TrialState.FAIL if error else None
            self.study.tell(self.asked.pop(trial_id), None if error else reached, state=state)
        elif not error and all(d.holds(proposal["values"][key]) for key, d in self.space.domains.items()):
            self.study.add_trial(
                optuna.trial.create_trial(
                    params=proposal["values"], distributions=self._distributions(), values=reached
                )
            )

    def _distributions(self) -> dict[str, Any]:
        return {key: domain.distribution() for key, domain in self.space.domains.items()}

    def _recorded(self, number: int) -> dict[str, Any] | None:
        """What was proposed for this number before the driver died."""
        try:
            found = json.loads(self.home.read(f"{number:03d}/{RECORD}"))
        except (OSError, ValueError):
            return None
        values = found.get("values") if isinstance(found, dict) else None
        return values if isinstance(values, dict) and values.keys() == self.space.domains.keys() else None

    def save(self, checkpoint_path: str) -> None:
        with open(checkpoint_path, "wb") as file:
            pickle.dump({"next": self.next, "asked": self.asked, "numbers": self.numbers, "study": self.study}, file)

    def restore(self, checkpoint_path: str) -> None:
        with open(checkpoint_path, "rb") as file:
            self.__dict__.update(pickle.load(file))
        # Tune writes its trials before the proposals: a driver that died in between has more of them
        self.next = max([self.next, *(number + 1 for number in known_numbers(self.state))])


def known_numbers(state: Folder) -> list[int]:
    """Numbers of the trials in Tune's newest saved state; [] if there is none that can be read."""
    for name in reversed(state_files(state)):
        try:
            saved = json.loads(state.read(name))
            return [int(json.loads(trial)["config"]["number"]) for trial, _ in saved["trial_data"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return []


def state_files(state: Folder) -> list[str]:
    """Tune's files of saved trials, oldest first."""
    return [name for name in state.list() if name.startswith("experiment_state-") and name.endswith(".json")]


# ---------------------------------------------------------------------------------------------------------------------
# Schedulers


def scheduler_of(space: Space) -> TrialScheduler:
    """Tune's scheduler for `tune.scheduler`; all compare trials at the same number of images."""
    config, tune = space.config, space.config.tune
    goal = {"metric": OBJECTIVE, "mode": "min"}
    grace = interval_kimg(config)
    if tune.scheduler == "asha":
        grace = min(grace, config.kimg)
        return _sparing(ASHAScheduler)(
            config.kimg,
            time_attr="kimg",
            max_t=config.kimg,
            grace_period=grace,
            reduction_factor=tune.reduction,
            **goal,
        )
    if tune.scheduler == "hyperband":  # counts in whole units, of which a bracket's shortest trials get one
        return HyperBandScheduler(
            time_attr="interval", max_t=max(2, round(config.kimg / grace)), reduction_factor=tune.reduction, **goal
        )
    if tune.scheduler == "median":
        return _sparing(MedianStoppingRule)(
            config.kimg, time_attr="kimg", grace_period=grace, min_samples_required=3, **goal
        )
    if tune.scheduler in ("pbt", "pb2"):
        return _population(space)
    return FIFOScheduler()


def _sparing(kind: Any) -> Any:
    """The scheduler, which lets the trial with the config's own values end: what is found shall be compared with what
    there was.
    """

    class Sparing(kind):  # type: ignore[misc]
        def __init__(self, budget_kimg: float, **options: Any) -> None:
            self._budget_kimg = budget_kimg
            super().__init__(**options)

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            action = str(super().on_trial_result(tune_controller, trial, result))
            if (
                action == TrialScheduler.STOP
                and trial.config.get("preset")
                and result["kimg"] < self._budget_kimg * (1 - 1e-9)
            ):
                getattr(self, "_stopped_trials", set()).discard(trial)  # where median stopping keeps its books
                return str(TrialScheduler.CONTINUE)
            return action

    return Sparing


def _population(space: Space) -> TrialScheduler:
    tune = space.config.tune
    random.seed(space.config.seed)  # Tune's PBT draws from Python's global generator
    moving = {key: domain for key, domain in space.domains.items() if domain.continuous}
    options: dict[str, Any] = {
        "metric": OBJECTIVE,
        "mode": "min",
        "time_attr": "kimg",
        "perturbation_interval": interval_kimg(space.config) * (1 - 1e-6),
        "quantile_fraction": tune.quantile,
        "custom_explore_fn": None,
        "log_config": True,
        # All wait for the slowest at each exchange: else a trial that started first could end before there is another
        # to learn from, and where trials take turns on few processors, the first ones would be compared with each other
        # alone.
        "synch": True,
    }
    if tune.scheduler == "pb2":
        from ray.tune.schedulers.pb2 import PB2

        bounds = {key: [domain.low, domain.high] for key, domain in moving.items()}
        return _numbered(PB2)(space, **options, hyperparam_bounds={"values": bounds})
    mutations = {key: (lambda d=domain: d.at(random.random())) for key, domain in moving.items()}
    return _numbered(PopulationBasedTraining)(
        space,
        **options,
        hyperparam_mutations={"values": mutations},
        resample_probability=0.25,
        perturbation_factors=(1.25, 0.8),
    )


def _numbered(kind: Any) -> Any:
    """The population scheduler, with four changes: a trial keeps its number (and so its folder) when it takes another's
    values, which are kept inside the space; proposals that do not learn from results may come from a Searcher, which
    Tune forbids for those that do; a trial that is being saved already is not saved twice; and a population whose
    members all wait goes on.
    """

    class Numbered(kind):  # type: ignore[misc]
        def __init__(self, space: Space, **options: Any) -> None:
            self._space = space
            super().__init__(**options)

        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            super().on_trial_add(SimpleNamespace(search_alg=None), trial)

        def _get_new_config(self, trial: Any, trial_to_clone: Any) -> Any:
            found, operations = super()._get_new_config(trial, trial_to_clone)
            values = self._space.explored(found["values"])
            return {**found, "values": values, "number": trial.config["number"], "preset": False}, operations

        def _checkpoint_or_exploit(
            self, trial: Any, tune_controller: Any, upper_quantile: list[Any], lower_quantile: list[Any]
        ) -> None:
            # A giver that is about to pause is being saved. Tune 2.60 would save it once more, without counting that
            # save: its next one would get the same folder, and the taker, if it is slow to start, weights from later
            # than those that it was told of.
            if trial in upper_quantile and isinstance(trial.temporary_state.saving_to, _FutureTrainingResult):
                self._trial_state[trial].last_checkpoint = trial.temporary_state.saving_to
                self._num_checkpoints += 1
                return
            super()._checkpoint_or_exploit(trial, tune_controller, upper_quantile, lower_quantile)

        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            # The next exchange is put at the furthest trial's images, if one ran ahead (as after a crash). A trial that
            # has just taken over the furthest one's state is there already, and Tune would let all of them wait for
            # ever.
            found, live = super().choose_trial_to_run(tune_controller), tune_controller.get_live_trials()
            if found is None and live and all(trial.status == TuneTrial.PAUSED for trial in live):
                self._next_perturbation_sync = (
                    min(self._trial_state[t].last_train_time for t in live) + self._perturbation_interval
                )
                found = super().choose_trial_to_run(tune_controller)
            return found

    return Numbered
