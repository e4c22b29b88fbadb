"""The run description: one `RunConfig`, of the sections in `data`, `algorithm` and `engine`, which have every setting
with its default, unit, range and meaning; `config.reading` fills it.

Budgets and cadences are in kimg (thousands of real samples shown to the discriminator).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from distgan.config.algorithm import AugmentConfig, LossConfig, ModelConfig, OptimConfig, TrainingConfig
from distgan.config.base import Count, Number, Section, setting
from distgan.config.data import CheckpointConfig, DataConfig, LogConfig, MetricsConfig
from distgan.config.engine import RayConfig, TuneConfig, WorkerRange
from distgan.registry import objectives
from distgan.text import printable


class RunConfig(Section):
    """Everything about one run."""

    name: str | None = setting(None, "name of the run, a folder in storage; empty = the data's name")
    storage: str = setting("./runs", "folder or URI (s3://..., gs://...) that holds the runs")
    engine: Literal["ray", "local"] = setting(
        "ray", "ray = Ray Train; local = this process alone, or one rank of torchrun"
    )
    workers: Literal["auto"] | Annotated[Count, Field(ge=1)] | WorkerRange = setting(
        "auto", "processes that train together: auto (every GPU; on CPU what is fastest), a number, or {min: a, max: b}"
    )
    kimg: Number = setting(160.0, "budget: thousands of real images shown to the discriminator", unit="kimg", gt=0)
    minutes: Number | None = setting(
        None,
        "budget in time, in place of kimg: as many images as this machine trains in it, found by some steps before the "
        "first one",
        unit="min",
        gt=0,
    )
    batch_size: Count = setting(32, "images in a step, all workers together", unit="images", ge=1)
    seed: Count = setting(0, "every random draw of the run follows from it", ge=0, lt=2**63)
    finetune: str | None = setting(
        None,
        "begin with the weights of another run, trial, search's winner or exported generator: its name in storage, "
        "path or URI",
    )
    data: DataConfig = setting(DataConfig, "real images")
    model: ModelConfig = setting(ModelConfig, "networks")
    loss: LossConfig = setting(LossConfig, "loss and penalties")
    optim: OptimConfig = setting(OptimConfig, "optimisers")
    augment: AugmentConfig = setting(AugmentConfig, "augmentation")
    training: TrainingConfig = setting(TrainingConfig, "training step")
    metrics: MetricsConfig = setting(MetricsConfig, "measurement")
    checkpoint: CheckpointConfig = setting(CheckpointConfig, "checkpoints")
    log: LogConfig = setting(LogConfig, "logs")
    ray: RayConfig = setting(RayConfig, "Ray")
    tune: TuneConfig = setting(TuneConfig, "search")

    @model_validator(mode="before")
    @classmethod
    def _top_level_names(cls, values: Any) -> Any:
        """Accept `training.batch_size`, `training.kimg` and `training.seed` for the top-level settings of that name."""
        if isinstance(values, Mapping) and isinstance(values.get("training"), Mapping):
            values, training = dict(values), dict(values["training"])
            for key in ("batch_size", "kimg", "seed", "workers"):
                if key in training:
                    values[key] = training.pop(key)
            values["training"] = training
        return values

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str | None) -> str | None:
        if value is not None and (
            not value.strip() or value[0] in ".-" or any(c in value for c in "/\\?#\n\0") or value != printable(value)
        ):
            raise ValueError(
                "must be a plain folder name of readable characters, without / \\ ? # and not starting with a dot or a "
                "dash; the folder above it is --storage"
            )
        return value

    @model_validator(mode="after")
    def _agreement(self) -> RunConfig:
        training = self.training
        if training.reuse_fakes is True and not training.shown_once:
            raise ValueError(
                "training.reuse_fakes = True: needs training.n_dis = 1 and training.accumulate = 1 (here "
                f"{training.n_dis} and {training.accumulate}), as the discriminator must have seen the very images once"
            )
        moving = sorted({"flip", "rotate90", "translate", "rotate", "scale"}.intersection(self.augment.policy))
        if training.deterministic and self.augment.kind != "none" and moving:
            raise ValueError(
                f"training.deterministic = True: augment.policy = {', '.join(moving)} moves pixels, for which GPUs add "
                "in no fixed order; allowed with it: colour, cutout"
            )
        if training.fake_labels == "balanced" and self.loss.name == "relativistic":
            raise ValueError(
                "training.fake_labels = 'balanced': loss.name = 'relativistic' compares images of one class, whose "
                "labels are the data's; allowed with it: data"
            )
        best = self.checkpoint.best_metric
        if training.patience is not None and objectives("lower")[best] not in self.metrics.names:
            raise ValueError(
                f"training.patience = {training.patience}: waits for a better {best} (checkpoint.best_metric), which "
                f"metrics.names = {', '.join(self.metrics.names)} does not measure; allowed with it: "
                f"{objectives('lower')[best]} among them, or training.patience empty"
            )
        if training.freeze_d and self.finetune is None:
            raise ValueError(
                f"training.freeze_d = {training.freeze_d}: keeps layers as they are in the source of the weights, and "
                "finetune names none; allowed without: 0"
            )
        most = self.workers.max if isinstance(self.workers, WorkerRange) else self.workers
        if isinstance(most, int):
            if self.batch_size < most:
                raise ValueError(
                    f"batch_size: {self.batch_size} images cannot be shared by {most} workers; allowed: at least {most}"
                )
            if isinstance(self.workers, int) and self.batch_size % most:
                low, high = self.batch_size // most * most, -(-self.batch_size // most) * most
                raise ValueError(
                    f"batch_size: {self.batch_size} is not divisible by workers = {most}; "
                    f"allowed: a multiple of {most}, for example {low} or {high}"
                )
        if self.kimg * 1000 < self.batch_size:
            raise ValueError(
                f"kimg: {self.kimg} kimg is less than one batch of {self.batch_size} images; allowed: at least "
                f"{self.batch_size / 1000}"
            )
        return self

    def for_classes(self, n_classes: int) -> RunConfig:
        """The same run with model.conditioning decided for data of so many classes (0 = no labels)."""
        model = self.model.model_copy(update={"conditioning": self.model.conditioned_on(n_classes)})
        return self.model_copy(update={"model": model})

    @property
    def run_name(self) -> str:
        """The run's folder name: `name`, or the last part of the data's name."""
        if self.name:
            return self.name
        return re.sub(r"[\\?#\n\0]", "_", printable(Path(self.data.name.rstrip("/")).stem)).lstrip(".-") or "run"

    @property
    def total_images(self) -> int:
        """The budget in images, rounded up to whole steps."""
        step = self.batch_size * self.training.n_dis
        return math.ceil(round(self.kimg * 1000) / step) * step
