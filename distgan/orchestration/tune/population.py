"""Population-based training of GANs (Jaderberg et al., Population Based Training of Neural Networks, 2017).

Ray's own scheduler gives a trial the whole config of the one that it copies, forbids searchers, and keeps weights in
Tune's checkpoints. Here a trial keeps its number and its folder, explored values stay inside the space, and what was
copied from whom lies in storage with the values that the weights were trained with:

    exchange.json    {"exchange": which, "exploits": [{"taker", "donor", "nimg", "values"}]}

All trials meet at every exchange, so that they are compared at equal images, on however few processors they take turns.
An exchange is written down, then carried out, and only then the trials go on: whatever is interrupted is done again.
"""

from __future__ import annotations

import json
import math
import random
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from distgan.orchestration.tune.space import Space
from distgan.orchestration.tune.trial import OBJECTIVE, WORST, interval_kimg
from distgan.orchestration.tune.trial_checkpoints import read_ancestry, stage_exploit
from distgan.orchestration.tune.trial_records import TrialRecords

JOURNAL = "exchange.json"
RESAMPLED = 0.25
"""How often a value is drawn anew; else it is made larger or smaller by one of FACTORS."""
FACTORS = (1.25, 0.8)


class Population(FIFOScheduler):  # type: ignore[misc]
    """Truncation selection: at each exchange the worst trials take over the weights, optimisers and averages of good
    ones, and go on with changed values.
    """

    def __init__(self, space: Space, records: TrialRecords, total: int, concurrent: int) -> None:
        super().__init__()
        self._space, self._records, self._concurrent = space, records, concurrent
        self._absent = {n for n in range(total) if records.ended(n) is None}  # trials that Tune has not added yet
        self._members: dict[str, Any] = {}
        self._waiting: dict[str, dict[str, Any]] = {}  # Tune's trial -> its result at the exchange
        self._exchanges = 0
        try:
            journal = json.loads(records.folder.read(JOURNAL))
            self._exchanges = int(journal["exchange"])
            for exploit in journal["exploits"]:
                self._carry_out(exploit)
        except FileNotFoundError:
            pass

    # -- what Tune tells ----------------------------------------------------------------------------------------------

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._members[trial.trial_id] = trial
        self._absent.discard(trial.config["number"])

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._members.pop(trial.trial_id, None)
        self._waiting.pop(trial.trial_id, None)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if result["kimg"] < self._due:
            return str(TrialScheduler.CONTINUE)
        self._waiting[trial.trial_id] = result
        replaced = self._exchange() if self._all_wait() else set()
        if trial.trial_id not in self._waiting and trial.trial_id not in replaced:
            return str(TrialScheduler.CONTINUE)
        if trial.trial_id not in replaced:
            trial.set_config({**trial.config, "told": round(result["kimg"] * 1000)})
        tune_controller.pause_trial(trial, should_checkpoint=False)  # its checkpoints are in its folder
        return str(TrialScheduler.NOOP)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        if self._all_wait():  # the last one that the others waited for has ended
            self._exchange()
        trials = tune_controller.get_trials()
        ready = [t for t in trials if t.status == TuneTrial.PENDING]
        if ready:
            return ready[0]
        running = sum(t.status == TuneTrial.RUNNING for t in trials)
        paused = [t for t in trials if t.status == TuneTrial.PAUSED and t.trial_id not in self._waiting]
        if not paused or running >= self._concurrent:
            return None
        return min(paused, key=lambda t: t.config["number"])

    def debug_string(self) -> str:
        return f"Population of {len(self._members)} after {self._exchanges} exchanges"

    # -- exchanges ----------------------------------------------------------------------------------------------------

    @property
    def _due(self) -> float:
        """kimg of the next exchange."""
        return (self._exchanges + 1) * interval_kimg(self._space.config) * (1 - 1e-6)

    def _all_wait(self) -> bool:
        return bool(self._members) and not self._absent and self._members.keys() == self._waiting.keys()

    def _exchange(self) -> set[str]:
        """Replace the worst, and let all go on that have not come to the next exchange already; returns who was
        replaced.
        """
        config, members = self._space.config, list(self._members.values())
        ranked = sorted(members, key=lambda t: (self._waiting[t.trial_id][OBJECTIVE], t.config["number"]))
        count = min(math.ceil(len(ranked) * config.tune.quantile), len(ranked) // 2)
        donors, exploits = ranked[:count], []
        for taker in ranked[len(ranked) - count :]:
            number = taker.config["number"]
            # Stateless, so that an exchange that was cut short comes out the same
            draws = random.Random(f"{config.seed}/{self._exchanges}/{number}")
            donor = draws.choice(donors)
            result = self._waiting[donor.trial_id]
            if result[OBJECTIVE] < WORST:
                nimg = round(result["kimg"] * 1000)
                values = self._explore(donor.config["values"], draws)
                exploits.append({"taker": number, "donor": donor.config["number"], "nimg": nimg, "values": values})
        self._exchanges += 1
        self._records.folder.write(JOURNAL, json.dumps({"exchange": self._exchanges, "exploits": exploits}))
        by_number, replaced = {t.config["number"]: t for t in members}, set()
        for exploit in exploits:
            if self._carry_out(exploit):
                trial = by_number[exploit["taker"]]
                changed = {"values": exploit["values"], "baseline": False, "told": exploit["nimg"]}
                trial.set_config({**trial.config, **changed})
                replaced.add(trial.trial_id)
        self._waiting = {name: result for name, result in self._waiting.items() if result["kimg"] >= self._due}
        return replaced

    def _carry_out(self, exploit: dict[str, Any]) -> bool:
        """Lay the donor's checkpoint ready for the taker, unless it was done; False if the donor has none."""
        taker, donor = (self._records.proposed[exploit[who]] for who in ("taker", "donor"))
        if taker.get("exchange") == self._exchanges:
            return True
        source, target = (self._records.home.child(f"{trial['number']:03d}") for trial in (donor, taker))
        begun = [{"kimg": 0.0, "values": donor["values"], "trial": donor["number"]}]
        schedule = read_ancestry(source).get("schedule") or begun
        if not stage_exploit(source, target, exploit["nimg"], taker["number"], exploit["values"], schedule):
            return False
        changed = {"values": exploit["values"], "baseline": False, "exchange": self._exchanges}
        self._records.write({**taker, **changed})
        return True

    def _explore(self, values: dict[str, Any], draws: random.Random) -> dict[str, Any]:
        """Values near the donor's, inside the space; what is no number of a range is taken over as it is."""
        found = dict(values)
        for key, domain in self._space.domains.items():
            if domain.continuous:
                anew = draws.random() < RESAMPLED
                found[key] = domain.at(draws.random()) if anew else values[key] * draws.choice(FACTORS)
        return self._space.explored(found)
