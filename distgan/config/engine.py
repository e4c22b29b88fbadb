"""Who trains it, and how many at once: workers, and the sections `ray` and `tune`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import field_validator, model_validator

from distgan.config.base import Count, Number, OneOf, Section, setting
from distgan.registry import objectives


class WorkerRange(Section):
    """An elastic number of workers."""

    min: Count = setting(1, "fewest workers to go on with", ge=1)
    max: Count = setting(1, "most workers", ge=1)

    @model_validator(mode="after")
    def _order(self) -> WorkerRange:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class RayConfig(Section):
    """How Ray runs the workers."""

    address: str | None = setting(None, "cluster to join; empty = $RAY_ADDRESS, else a private one on this machine")
    cpus_per_worker: Count | None = setting(
        None, "CPUs a worker reserves and uses; empty = its share of the machine", ge=1
    )
    gpus_per_worker: Number | None = setting(None, "GPUs a worker reserves; empty = 1 where there are GPUs", ge=0)
    max_failures: Count = setting(3, "restarts of the workers after a failure; -1 = no limit", ge=-1)
    poll_s: Number = setting(0.5, "how often Ray looks after its workers", unit="s", gt=0, le=60)
    start_timeout_s: Number = setting(60.0, "time a group of workers has to start", unit="s", gt=0)
    dashboard: bool = setting(False, "start Ray's dashboard with a private cluster")


class TuneConfig(Section):
    """The search. Its space is in `space`: setting -> distribution."""

    scheduler: Literal["asha", "hyperband", "pbt", "median", "none"] = setting("asha", "who stops or replaces trials")
    searcher: Literal["random", "optuna"] = setting(
        "optuna", "who proposes values (pbt begins with random ones in any case)"
    )
    num_samples: Count = setting(16, "trials at most; the first is the baseline, the config as it is", ge=1)
    time_s: Number | None = setting(None, "wall time of the search, before the best are confirmed", unit="s", gt=0)
    total_kimg: Number | None = setting(
        None, "images of all trials together, before the best are confirmed", unit="kimg", gt=0
    )
    metric: list[Annotated[str, OneOf(objectives)]] = setting(
        ["fid"],
        "objective, of the averaged generator, the lower or the higher the better as the metric is; of several the "
        "first decides, and optuna proposes for all",
        min_length=1,
    )
    max_concurrent_trials: Count | None = setting(None, "trials at once; empty = as many as fit", ge=1)
    trials_per_gpu: Count = setting(1, "trials that share a GPU", ge=1)
    reduction: Number = setting(3.0, "asha, hyperband: one in so many goes on", gt=1)
    grace_share: Number = setting(
        0.15,
        "share of the budget between two measurements, and before asha, hyperband or median stop a trial",
        gt=0,
        le=1,
    )
    interval_share: Number = setting(0.1, "pbt: share of the budget between two exploits", gt=0, le=1)
    quantile: Number = setting(0.25, "pbt: share of trials that are replaced", gt=0, le=0.5)
    confirm_top: Count = setting(
        3, "best trials to run again with new seeds, and the baseline beside them; 0 = none", ge=0
    )
    confirm_seeds: Count = setting(3, "seeds for each of them", ge=1)
    space: dict[str, Any] = setting(
        dict,
        "setting -> {loguniform: [a, b]}, {uniform: [a, b]}, {randint: [a, b]}, {choice: [...]}, {grid: [...]}; "
        "empty = rates, betas and penalty",
    )
    also: list[Literal["r1_gamma", "loss", "n_dis", "batch"]] = setting(
        list, "what the default space searches beside rates, betas and the penalties that the config has"
    )

    @field_validator("metric", "also", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]
