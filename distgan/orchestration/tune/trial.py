"""One trial of a search, as Ray Tune runs it: train to the next measurement, report, wait to be told to go on, stop or
change.

A trial of one worker runs the training loop in the actor itself, in a thread that stops at each measurement; the next
trial reuses the process. A trial of several workers is a Ray Train run of its own, followed through its folder in
storage. Either way the trial's folder holds everything, and every start is a resume.
"""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from ray import tune

from distgan.config import ConfigError, RunConfig, RunError, dump_config, validate
from distgan.kinds import describe
from distgan.orchestration.placement import Placement
from distgan.orchestration.tune.space import Space
from distgan.orchestration.tune.trial_checkpoints import measurements, take_exploit
from distgan.registry import look_in, objectives
from distgan.runs.beginning import check_source, read_source
from distgan.runs.lease import Lease
from distgan.storage import Folder
from distgan.training.threads import keep_memory, share_cores

WORST = 1e6
"""The objective of a diverged trial: larger than any distance, and finite, because schedulers compare with < and fit
curves.
"""

OBJECTIVE = "objective"


def objective_names(config: RunConfig) -> list[str]:
    """The reported names of the objectives, all to be made small; the first decides."""
    return [OBJECTIVE, *(f"{OBJECTIVE}_{i}" for i in range(1, len(config.tune.metric)))]


def interval_kimg(config: RunConfig) -> float:
    """kimg between two measurements of a trial: whole steps, the same for all trials."""
    share = config.tune.interval_share if config.tune.scheduler == "pbt" else config.tune.grace_share
    return max(config.kimg * share, config.batch_size * config.training.n_dis / 1000)


def trial_config(config: RunConfig) -> RunConfig:
    """A trial's settings: measured at the same images count, on the same number of samples, from the first to the
    last.
    """
    every = interval_kimg(config)
    metric_of, lower = objectives(), objectives("lower")
    names = list(dict.fromkeys([*(metric_of[key] for key in config.tune.metric), *config.metrics.names]))
    given = [key for key, metric in lower.items() if metric in names]
    change: dict[str, dict[str, Any]] = {
        "metrics": {"names": names, "every_kimg": every, "final_samples": config.metrics.samples},
        "checkpoint": {
            "every_kimg": every,
            "pause_s": 0,
            "best_metric": "fid" if "fid" in given or not given else given[0],
        },
        "log": {"samples_every_kimg": every, "tensorboard": False},
        "training": {"on_divergence": "stop"},
    }
    values = config.model_dump(mode="json")
    for section, changed in change.items():
        values[section] = values[section] | changed
    return validate(values)


def result_of(config: RunConfig, line: dict[str, Any], *, diverged: bool = False) -> dict[str, Any]:
    """What Tune is told of a measurement, a line of metrics.jsonl."""
    values = {k: float(v) for k, v in line.items() if isinstance(v, int | float) and math.isfinite(v) and k != "time"}
    found = [values.get(name) for name in config.tune.metric]
    lost = diverged or found[0] is None
    for name, metric, value in zip(objective_names(config), config.tune.metric, found, strict=True):
        values[name] = WORST if lost or value is None else -value if metric in objectives("higher") else value
    kimg = line["nimg"] / 1000
    return {**values, "kimg": kimg, "diverged": float(lost), "interval": kimg / interval_kimg(config)}


def begin_trial(config: RunConfig, folder: Folder, source: Folder) -> None:
    """Let a trial begin with the weights in `source`. Raises ConfigError where they do not fit its settings."""
    share_cores()
    from distgan.training.finetune import begin

    assert config.finetune is not None
    begin(folder, *check_source(config, describe(config.data), read_source(source, config.finetune)))


class Run(Protocol):
    """Training under way: `advance` to the next measurement (False: the run is over), `close` at any measurement."""

    def advance(self) -> bool: ...

    def close(self) -> None: ...


class LoopThread:
    """The training loop in this process. It waits at each measurement, with all its tensors alive, until it may go
    on.
    """

    def __init__(self, config: RunConfig, folder: Folder, cpus: int, on_gpu: bool) -> None:
        share_cores()
        keep_memory()
        import torch

        from distgan.training.context import Context, default_device

        torch.set_num_threads(cpus)
        self.config, self.folder = config, folder
        self._context = Context(default_device() if on_gpu else torch.device("cpu"), on_report=self._report)
        self._found: queue.Queue[bool | BaseException] = queue.Queue()
        self._go = threading.Semaphore(0)
        self._leaving = False
        self._thread = threading.Thread(target=self._train, name="trial", daemon=True)

    def advance(self) -> bool:
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._go.release()
        found = self._found.get()
        if isinstance(found, BaseException):
            raise found
        # The loop stands still, so the one writer left is that of its last checkpoint
        for thread in threading.enumerate():
            if thread.name == "checkpoint-writer":
                thread.join()
        return found

    def close(self) -> None:
        self._leaving = True
        self._go.release()
        if self._thread.ident is not None:
            self._thread.join()

    def _train(self) -> None:
        from distgan.training.loop import train

        try:
            train(self.config, self._context, self.folder)
            self._found.put(False)
        except _LeaveError:
            pass
        except BaseException as error:
            self._found.put(error)

    def _report(self, metrics: dict[str, Any]) -> None:
        if metrics["kimg"] * 1000 >= self.config.total_images or not any(name in metrics for name in objectives()):
            return
        self._found.put(True)
        self._go.acquire()
        if self._leaving:
            raise _LeaveError


class _LeaveError(BaseException):
    """Ends the loop at a measurement without writing anything: the trial may go on elsewhere already."""


class WorkersRun:
    """A Ray Train run of several workers, seen through its folder. They do not wait at measurements."""

    def __init__(self, config: RunConfig, folder: Folder, placement: Placement, metric: str) -> None:
        self.config, self.folder, self.placement, self.metric = config, folder, placement, metric
        self._nimg = max((int(line["nimg"]) for line in measurements(folder, metric)), default=0)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._train, name="trial", daemon=True)

    def advance(self) -> bool:
        if self._thread.ident is None:
            self._thread.start()
        while self._thread.is_alive():
            self._thread.join(0.3 if self.folder.is_local else 3)
            newer = [line for line in measurements(self.folder, self.metric) if line["nimg"] > self._nimg]
            if newer and newer[0]["nimg"] < self.config.total_images:
                self._nimg = int(newer[0]["nimg"])
                return True
        if self._error is not None:
            raise self._error
        return False

    def close(self) -> None:
        from distgan.orchestration.train import STOP

        while self._thread.is_alive():
            self.folder.write(STOP, b"")
            self._thread.join(2)

    def _train(self) -> None:
        from distgan.orchestration.train import fit

        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(self.config.ray.poll_s))
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(self.config.ray.start_timeout_s))
        try:
            with self._lease() as lease:
                fit(self.config, self.folder, self.placement, owner=lease.owner)
        except BaseException as error:
            self._error = error

    @contextmanager
    def _lease(self) -> Iterator[Lease]:
        """The right to the folder. A trial that is paused and started again elsewhere waits until its old workers are
        gone.
        """
        patience = time.monotonic() + self.config.ray.start_timeout_s + 120
        while True:
            lease = Lease(self.folder)
            try:
                lease.__enter__()
                break
            except ConfigError:
                if time.monotonic() > patience:
                    raise
                time.sleep(1)
        try:
            yield lease
        finally:
            lease.__exit__()


class Trial(tune.Trainable):  # type: ignore[misc]
    """Tune's view of a trial. config: number, values, baseline; for a replay the schedule of values; and told, the
    images of which Tune has been told.
    """

    def setup(
        self,
        config: dict[str, Any],
        base: dict[str, Any],
        home: str,
        placement: Placement,
        working_folder: str = "",
        source: str = "",
    ) -> None:
        """source: a folder with the weights that trials begin with, where base.finetune is set."""
        self._source = Folder(source)
        look_in(working_folder or os.getcwd())
        self._base, self._home, self._placement = validate(base), Folder(home), placement
        self._run: Run | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        if self._run is not None:
            self._run.close()
            self._run = None

    def _begin(self, config: dict[str, Any]) -> None:
        self._number, self._values, self._baseline = config["number"], config["values"], config.get("baseline", False)
        self._schedule: list[dict[str, Any]] = config.get("schedule") or []
        base = self._base.model_copy(
            update={"seed": config.get("seed", self._base.seed), "name": f"{self._number:03d}"}
        )
        self._space = Space(base)
        self._folder = self._home.child(f"{self._number:03d}")
        self._told, self._started_at, self._diverged = int(config.get("told", 0)), 0, False
        exploited = take_exploit(self._folder)
        if exploited is not None:
            self._told = exploited

    # -- one step -----------------------------------------------------------------------------------------------------

    def step(self) -> dict[str, Any]:
        if self._diverged:  # a population may yet give it other weights
            return self._pass_by()
        newer, over = self._newer(), False
        retold = self._run is None and len(newer) > 1  # what a former driver was told, but for the newest of it
        if not newer:
            try:
                over = not self._running().advance()
            except ConfigError as error:  # the same would come of another attempt
                self._run = None
                refused = " ".join(str(error).split())
                return {**self._result({"nimg": self._told}, over=True), "refused": refused, "done": True}
            except RunError as error:
                if "not finite" not in str(error):
                    raise
                self._run, self._diverged = None, True
                return self._pass_by()
            if self._population and self._placement.most > 1:
                self.cleanup()  # nothing may be under way when others take over its weights
            newer = self._newer() or measurements(self._folder, self._metric)[-1:]
        if not newer:
            raise RunError(f"{self._folder}: the run ended without a measurement")
        self._told = int(newer[0]["nimg"])
        result = self._result(newer[0], over or self._told >= self._space.config.kimg * 1000)
        return {**result, "retold": 1.0} if retold else result

    def _pass_by(self) -> dict[str, Any]:
        """The result of a diverged trial: the end, but in a population, where it waits for the next exchange."""
        self._told += round(interval_kimg(self._space.config) * 1000)
        over = not self._population or self._told >= self._space.config.kimg * 1000
        return self._result({"nimg": self._told}, over=over)

    @property
    def _population(self) -> bool:
        return self._space.config.tune.scheduler == "pbt" and not self._schedule

    @property
    def _metric(self) -> str:
        return self._space.config.tune.metric[0]

    def _newer(self) -> list[dict[str, Any]]:
        """The measurements of which Tune was not told yet."""
        return [line for line in measurements(self._folder, self._metric) if line["nimg"] > self._told]

    def _running(self) -> Run:
        """The run with the values that hold now; a replay changes them on the way."""
        values, baseline = self._values, self._baseline
        if self._schedule:
            due = [entry for entry in self._schedule if entry["kimg"] * 1000 <= self._told]
            values, baseline = due[-1]["values"], False
            if self._run is not None and len(due) > 1 and due[-1]["kimg"] * 1000 > self._started_at:
                self.cleanup()
        if self._run is None:
            self._started_at = self._told
            config = self._space.apply(values, baseline=baseline)
            if config.finetune is not None and not self._folder.exists("checkpoints"):
                begin_trial(config, self._folder, self._source)
            self._folder.write("config.yaml", dump_config(config))
            if self._placement.most > 1:
                self._run = WorkersRun(config, self._folder, self._placement, self._metric)
            else:
                self._run = LoopThread(config, self._folder, self._placement.cpus, self._placement.gpus > 0)
        return self._run

    def _result(self, line: dict[str, Any], over: bool) -> dict[str, Any]:
        result = result_of(self._space.config, line, diverged=self._diverged)
        return {**result, "done": over or (bool(result["diverged"]) and not self._population)}

    # -- pauses: all but one number lies in the trial's folder --------------------------------------------------------

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"told": self._told}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        self._told = (checkpoint or {}).get("told", 0)
