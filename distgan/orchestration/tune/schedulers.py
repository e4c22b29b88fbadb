"""Who stops trials early, or replaces them: Ray Tune's schedulers, and a population of GANs.

All compare trials at the same number of images. The baseline is never stopped: what is found shall be compared with
what there was.
"""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, HyperBandScheduler, MedianStoppingRule, TrialScheduler

from distgan.orchestration.tune.population import Population
from distgan.orchestration.tune.space import Space
from distgan.orchestration.tune.trial import OBJECTIVE, interval_kimg
from distgan.orchestration.tune.trial_records import TrialRecords


def scheduler_of(space: Space, records: TrialRecords, total: int, concurrent: int) -> TrialScheduler:
    """Tune's scheduler for `tune.scheduler`.

    total: trials of the search. concurrent: trials at once.
    """
    config, tune = space.config, space.config.tune
    goal = {"metric": OBJECTIVE, "mode": "min"}
    grace = min(interval_kimg(config), config.kimg)
    if tune.scheduler == "asha":
        rule = {"max_t": config.kimg, "grace_period": grace, "reduction_factor": tune.reduction}
        return _sparing(ASHAScheduler)(records, concurrent, time_attr="kimg", **rule, **goal)
    if tune.scheduler == "median":
        rule = {"grace_period": grace, "min_samples_required": 3}
        return _sparing(MedianStoppingRule)(records, concurrent, time_attr="kimg", **rule, **goal)
    if tune.scheduler == "hyperband":  # counts in whole units, of which a bracket's shortest trials get one
        rule = {"max_t": max(2, round(config.kimg / grace)), "reduction_factor": tune.reduction}
        return _limited(HyperBandScheduler)(concurrent, time_attr="interval", **rule, **goal)
    if tune.scheduler == "pbt":
        return Population(space, records, total, concurrent)
    return FIFOScheduler()


def _limited(kind: Any) -> Any:
    """The scheduler, which resumes no more paused trials than may run at once."""

    class Limited(kind):  # type: ignore[misc]
        def __init__(self, concurrent: int, **options: Any) -> None:
            self._concurrent = concurrent
            super().__init__(**options)

        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            chosen = super().choose_trial_to_run(tune_controller)
            if chosen is not None and chosen.status == TuneTrial.PAUSED:
                busy = [t for t in tune_controller.get_trials() if t.status in (TuneTrial.PENDING, TuneTrial.RUNNING)]
                return chosen if len(busy) < self._concurrent else None
            return chosen

    return Limited


def _sparing(kind: Any) -> Any:
    """The scheduler, with two changes: it never stops the baseline, and it knows what trials reached that ended before
    this start of the search.

    A trial that was interrupted tells its former measurements again, and is stopped at the newest of them at the
    earliest.
    """

    class Sparing(_limited(kind)):  # type: ignore[misc]
        def __init__(self, records: TrialRecords, concurrent: int, **options: Any) -> None:
            self._records: TrialRecords | None = records
            self._lost: set[int] = set()
            super().__init__(concurrent, **options)

        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            if self._records is not None:
                for number in sorted(self._records.proposed):
                    self._tell_again(tune_controller, self._records, number)
                self._records = None
            super().on_trial_add(tune_controller, trial)

        def _tell_again(self, tune_controller: Any, records: TrialRecords, number: int) -> None:
            ended = records.ended(number)
            if ended is None or not ended["result"]:
                return
            trial = TuneTrial("ended", config=records.proposed[number], stub=True)
            super().on_trial_add(tune_controller, trial)
            for result in records.measured(number):
                if super().on_trial_result(tune_controller, trial, result) == TrialScheduler.STOP:
                    break
            super().on_trial_complete(tune_controller, trial, ended["result"])

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            number = trial.config["number"]
            if number not in self._lost:
                action = str(super().on_trial_result(tune_controller, trial, result))
                if action != TrialScheduler.STOP:
                    return action
                self._lost.add(number)  # what it reaches from here on does not count for the others
            spared = trial.config.get("baseline") or result.get("retold")
            return str(TrialScheduler.CONTINUE if spared else TrialScheduler.STOP)

    return Sparing
