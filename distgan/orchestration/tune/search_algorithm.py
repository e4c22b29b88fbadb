"""Who proposes the values of trials: random or in a grid's order, or optuna's TPE from what earlier trials reached.

Trials are numbered; number 0 is the baseline, the config as it is. What is proposed for a number is written down before
it starts, so that a search whose driver died proposes the same again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import optuna
from ray.tune.search import Searcher

from distgan.orchestration.tune.space import Space
from distgan.orchestration.tune.trial import OBJECTIVE, WORST, objective_names
from distgan.orchestration.tune.trial_records import TrialRecords


class GANSearch(Searcher):  # type: ignore[misc]
    """Values for the trials that have not ended yet, in the order of their numbers."""

    def __init__(
        self,
        space: Space,
        records: TrialRecords,
        numbers: list[int],
        paused: Callable[[], set[str]],
        plan: list[dict[str, Any]] | None = None,
    ) -> None:
        """numbers: of the trials to run. paused: ids of Tune's trials that wait without a process. plan: what to
        propose, by number, instead of searching.
        """
        super().__init__(metric=OBJECTIVE, mode="min")
        config = space.config
        self.space, self.records, self.numbers, self.plan, self.paused = space, records, list(numbers), plan, paused
        self.learns = plan is None and config.tune.searcher == "optuna" and config.tune.scheduler != "pbt"
        self.most: int | None = None
        self.running: dict[str, int] = {}  # Tune's trial -> number
        self.asked: dict[str, int] = {}  # Tune's trial -> the study's
        self.study: Any = None
        if self.learns:
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            self.study = optuna.create_study(directions=["minimize"] * len(objective_names(config)))
            for number in sorted(records.proposed):
                ended = records.ended(number)
                if ended is not None:
                    self._add(records.proposed[number]["values"], ended["result"])

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Tune's own limit counts paused trials too, of which a population has many."""
        self.most = max_concurrent
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if not self.numbers:
            return str(Searcher.FINISHED)
        if self.most is not None and len(self.running.keys() - self.paused()) >= self.most:
            return None
        number = self.numbers.pop(0)
        self.running[trial_id] = number
        proposed = self.plan[number] if self.plan is not None else self._propose(trial_id, number)
        if self.records.proposed.get(number) != proposed:
            self.records.write(proposed)
        return proposed

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self.running.pop(trial_id, None)
        if not self.learns or number is None:
            return
        if trial_id in self.asked:
            state = optuna.trial.TrialState.FAIL if error else None
            self.study.tell(self.asked.pop(trial_id), None if error else self._reached(result), state=state)
        elif not error:
            self._add(self.records.proposed[number]["values"], result)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the records are all that a restart needs."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as with `save`."""

    def _propose(self, trial_id: str, number: int) -> dict[str, Any]:
        known = self.records.proposed.get(number, {})
        values: dict[str, Any] | None = known.get("values")
        if values is not None and values.keys() != self.space.domains.keys():
            known, values = {}, None
        if self.learns and number > 0:
            if values is not None:
                self.study.enqueue_trial(values)
            # A draw depends on the seed, the number and what was reached, and not on when the search was interrupted
            seed = random.Random(f"{self.space.config.seed}/{number}").getrandbits(32)
            self.study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True, multivariate=True)
            asked = self.study.ask(self._distributions())
            self.asked[trial_id], values = asked.number, dict(asked.params)
        values = values or self.space.draw(number, self.space.config.seed)
        return {"number": number, "baseline": number == 0, **known, "values": values}

    def _add(self, values: dict[str, Any], result: dict[str, Any] | None) -> None:
        """Tell the study of a trial that it did not ask for; of the baseline only if it lies inside the space."""
        if all(domain.holds(values.get(key)) for key, domain in self.space.domains.items()):
            params, distributions = values, self._distributions()
            found = optuna.trial.create_trial(params=params, distributions=distributions, values=self._reached(result))
            self.study.add_trial(found)

    def _reached(self, result: dict[str, Any] | None) -> list[float]:
        return [float((result or {}).get(name, WORST)) for name in objective_names(self.space.config)]

    def _distributions(self) -> dict[str, Any]:
        return {key: domain.distribution() for key, domain in self.space.domains.items()}
