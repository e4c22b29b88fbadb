"""The run description: every setting with its default, unit, range and meaning, in one place.

A run is described by one `RunConfig`; `config.reading` fills it. Budgets and cadences are in kimg (thousands of real
images shown to the discriminator).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from distgan.config.base import Count, Number, Section, setting
from distgan.config.recipes import with_recipe

KNOWN_SETS = (
    "mnist10k",
    "mnist",
    "fashion-mnist",
    "kmnist",
    "cifar10",
    "cifar100",
    "svhn",
    "stl10",
    "celeba",
    "stacked-mnist",
)
LOSSES = ("non-saturating", "minimax", "least-squares", "hinge", "wasserstein", "relativistic")
MODELS = ("mlp", "dcgan", "resnet", "r3gan")
METRICS = ("fid", "kid", "precision-recall", "density-coverage", "inception-score", "modes")
EXTRACTORS = ("auto", "digits", "inception", "random-conv", "efficientnet-lite0")


class Schedule(Section):
    """How a value moves from its base to `final` times its base over the run. Progress is measured in images, never in
    steps.
    """

    kind: Literal["constant", "linear", "cosine"] = setting(
        "constant", "shape of the way from the base value to the final one"
    )
    final: Number = setting(1.0, "final value as a multiple of the base value", ge=0)
    over_kimg: Number | None = setting(None, "length of the way; empty = the run's whole budget", unit="kimg", gt=0)
    warmup_kimg: Number = setting(0.0, "linear rise from 0 to the base value before that", unit="kimg", ge=0)


class DataConfig(Section):
    """Where the real images come from."""

    name: str = setting(
        "mnist10k", f"a known set ({', '.join(KNOWN_SETS)}), or the path of a folder, .zip, .npy or .npz"
    )
    root: str | None = setting(
        None, "folder that holds (or receives) a known set; empty = $DISTGAN_DATA or ~/.cache/distgan/data"
    )
    split: Literal["train", "test", "all", "extra", "unlabeled"] = setting("train", "part of a known set")
    resolution: Count | None = setting(
        None,
        "side of the square images; empty = the set's own, or for folders a power of two from 16 to 64 that fits them",
        unit="pixels",
        ge=4,
        le=1024,
    )
    channels: Literal[1, 3] | None = setting(None, "1 = grey, 3 = RGB; empty = as in the data")
    fit: Literal["crop", "pad"] = setting(
        "crop", "how images that are not square become so: centre crop, or pad with the background"
    )
    background: str = setting("#ffffff", "colour behind transparent pixels and around padded images, #rrggbb")
    labels: bool = setting(True, "read class labels where there are any (sub-folders are classes)")
    max_bad_share: Number = setting(0.05, "share of unreadable files above which the run is refused", ge=0, le=1)
    download: bool = setting(True, "fetch a known set that is not in root (one process a node does it)")
    cache: str | None = setting(None, "folder for decoded images; empty = $DISTGAN_CACHE or ~/.cache/distgan/decoded")
    limit: Count | None = setting(None, "use only the first so many images", unit="images", ge=1)
    device_mib: Count = setting(
        2048, "sets up to this size are kept on the training device, larger ones are memory-mapped", unit="MiB", ge=0
    )
    mirror: bool = setting(False, "show each image flipped left to right half of the time")

    @field_validator("background")
    @classmethod
    def _colour(cls, value: str) -> str:
        digits = value.lstrip("#")
        if len(digits) != 6 or any(c not in "0123456789abcdefABCDEF" for c in digits):
            raise ValueError("must be a colour like #ffffff")
        return "#" + digits.lower()


class ModelConfig(Section):
    """The two networks."""

    name: str = setting("dcgan", f"family of both networks: {', '.join(MODELS)}")
    generator: str | None = setting(None, "own generator class as package.module:Class; empty = the family's")
    discriminator: str | None = setting(None, "own discriminator class as package.module:Class; empty = the family's")
    latent_dim: Count = setting(64, "length of the noise vector z", ge=1, le=8192)
    latent: Literal["normal", "uniform"] = setting("normal", "distribution of z: N(0, 1) or U(-1, 1)")
    g_width: Count = setting(
        32, "channels of the generator at full resolution (mlp: units of its first layer)", ge=1, le=4096
    )
    d_width: Count = setting(
        32, "channels of the discriminator at full resolution (mlp: units of its last hidden layer)", ge=1, le=4096
    )
    g_norm: Literal["batch", "none"] = setting("none", "normalisation in the generator")
    d_norm: Literal["batch", "spectral", "none"] = setting("none", "normalisation in the discriminator")
    conditioning: Literal["auto", "none", "projection", "auxiliary"] = setting(
        "auto",
        "use of class labels: none, projection discriminator, or auxiliary classifier (the generator gets the label "
        "in both); auto = projection where the data has classes",
    )
    g_args: dict[str, Any] = setting(dict, "further keyword arguments of the generator's class")
    d_args: dict[str, Any] = setting(dict, "further keyword arguments of the discriminator's class")

    def conditioned_on(self, n_classes: int) -> str:
        """`conditioning` with auto decided for data of so many classes (0 = no labels)."""
        if self.conditioning != "auto":
            return self.conditioning
        return "projection" if n_classes > 1 else "none"

    @field_validator("name")
    @classmethod
    def _family(cls, value: str) -> str:
        if value not in MODELS:
            near = difflib.get_close_matches(value, MODELS, 1, 0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"must be one of {', '.join(MODELS)}{hint} Own classes go into model.generator and model.discriminator"
            )
        return value

    @field_validator("generator", "discriminator")
    @classmethod
    def _import_path(cls, value: str | None) -> str | None:
        if value is not None and (value.count(":") != 1 or not all(value.split(":"))):
            raise ValueError("must be an import path like package.module:Class")
        return value


class LossConfig(Section):
    """The adversarial loss and the discriminator's gradient penalties."""

    name: Literal["non-saturating", "minimax", "least-squares", "hinge", "wasserstein", "relativistic"] = setting(
        "relativistic",
        "binary cross-entropy with the non-saturating or the original (minimax) generator loss, or a later loss",
    )
    r1_gamma: Number = setting(
        1.0, "weight of the gradient penalty at real images, gamma/2 |grad D|^2; on MNIST 0.1 unless set", ge=0
    )
    r2_gamma: Number = setting(1.0, "weight of the gradient penalty at generated images; on MNIST 0.1 unless set", ge=0)
    gamma_schedule: Schedule = setting(Schedule, "course of r1_gamma and r2_gamma")
    gp_lambda: Number = setting(0.0, "weight of the gradient penalty between real and generated images (WGAN-GP)", ge=0)
    gp_target: Literal[0, 1] = setting(1, "gradient norm that WGAN-GP pulls to")
    penalty_every: Count = setting(
        1,
        "penalties in every n-th step only, n times as strong; as a part of that step, so Adam needs no correction",
        unit="steps",
        ge=1,
    )
    auxiliary_weight: Number = setting(1.0, "weight of the auxiliary classifier's cross-entropy", ge=0)

    @property
    def has_penalty(self) -> bool:
        """Whether gradients in images are penalised, so that D is differentiated twice."""
        return self.r1_gamma > 0 or self.r2_gamma > 0 or self.gp_lambda > 0


class AdamConfig(Section):
    """Adam for one network."""

    lr: Number = setting(3e-3, "step size", gt=0, le=10)
    beta1: Number = setting(0.0, "decay of the mean of gradients", ge=0, lt=1)
    beta2: Number = setting(0.99, "decay of the mean of squared gradients", ge=0, lt=1)
    eps: Number = setting(1e-8, "added to the denominator", gt=0)
    weight_decay: Number = setting(0.0, "decoupled weight decay (AdamW)", ge=0)
    lr_schedule: Schedule = setting(lambda: Schedule(kind="cosine", final=0.05), "course of lr")
    beta2_schedule: Schedule = setting(Schedule, "course of 1 - beta2")


class GeneratorAdamConfig(AdamConfig):
    """Adam for the generator: twice the discriminator's rate, by measurement (README)."""

    lr: Number = setting(6e-3, "step size", gt=0, le=10)


class OptimConfig(Section):
    """The optimisers."""

    g: GeneratorAdamConfig = setting(GeneratorAdamConfig, "generator")
    d: AdamConfig = setting(AdamConfig, "discriminator")


class AugmentConfig(Section):
    """Augmentation of what the discriminator sees, real and generated alike."""

    kind: Literal["none", "diffaugment", "ada"] = setting("none", "none, DiffAugment, or the ADA pipeline")
    policy: list[Literal["flip", "rotate90", "translate", "rotate", "scale", "colour", "cutout"]] = setting(
        ["translate", "colour", "cutout"], "the transformations in use"
    )
    p: Number = setting(1.0, "probability of each transformation (ada: where the adaptive p starts)", ge=0, le=1)
    p_schedule: Schedule = setting(Schedule, "course of p")
    target: Number | None = setting(
        None, "ada: the sign statistic that p is steered to, for example 0.6; empty = p follows p_schedule", gt=0, lt=1
    )
    ramp_kimg: Number = setting(500.0, "ada: images in which p can move from 0 to 1", unit="kimg", gt=0)


class TrainingConfig(Section):
    """The training step."""

    n_dis: Count = setting(1, "discriminator steps for each generator step", unit="steps", ge=1, le=100)
    precision: Literal["auto", "fp32", "bf16"] = setting("auto", "auto = bf16 autocast on CUDA, fp32 on CPU")
    channels_last: Literal["auto", "on", "off"] = setting(
        "auto", "images in memory with their channels side by side; auto = on"
    )
    accumulate: Count = setting(
        1, "parts that a worker's share of a batch is computed in, one after another: less memory", ge=1, le=1024
    )
    reuse_fakes: Literal["auto"] | bool = setting(
        "auto",
        "train the generator on the images that the discriminator was just shown, in place of new ones: a forward "
        "pass less a step, and its activations are kept meanwhile; auto = where n_dis and accumulate are 1",
    )
    fake_labels: Literal["data", "balanced"] = setting(
        "data", "classes of generated images: as often as in the data, or all equally often"
    )
    compile: Literal["auto", "off", "on", "cuda-graphs"] = setting(
        "auto",
        "on = torch.compile for what needs no second derivative (the first steps take minutes longer); cuda-graphs = "
        "record the step's kernels once and replay them (GPUs); auto = cuda-graphs for this package's networks of up "
        "to 16 million weights, else off",
    )
    deterministic: bool = setting(
        False,
        "on GPUs: kernels that give the same bits every time, slower ones for some networks; on CPUs all are such in "
        "any case",
    )
    ema_half_life_kimg: list[Number] = setting(
        [10.0], "half-lives of the generator's running averages; 0 = the raw weights", unit="kimg", min_length=1
    )
    ema_schedule: Schedule = setting(Schedule, "course of the half-lives")
    ema_rampup: Number = setting(
        0.05, "half-life is at most this share of the images seen so far; 0 = no ramp", ge=0, le=1
    )
    on_divergence: Literal["stop", "rollback"] = setting(
        "rollback", "what follows non-finite numbers: stop, or go back to the last good checkpoint"
    )
    max_rollbacks: Count = setting(3, "rollbacks after which the run stops all the same", ge=0)

    @property
    def reuses_fakes(self) -> bool:
        """reuse_fakes, with auto decided."""
        return self.shown_once if self.reuse_fakes == "auto" else self.reuse_fakes

    @property
    def shown_once(self) -> bool:
        """Whether the generator's step has as many images as the discriminator saw just before, in one piece."""
        return self.n_dis == 1 and self.accumulate == 1

    @field_validator("ema_half_life_kimg", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]

    @field_validator("ema_half_life_kimg")
    @classmethod
    def _half_lives(cls, value: list[float]) -> list[float]:
        if any(v < 0 for v in value) or len(set(value)) != len(value):
            raise ValueError("must be different numbers >= 0")
        return value


class CheckpointConfig(Section):
    """What is kept so that nothing is lost."""

    every_kimg: Number = setting(10.0, "images between two checkpoints", unit="kimg", gt=0)
    pause_s: Number = setting(
        1.0, "least time between two of them: a run so fast that less lies between skips some", unit="s", ge=0
    )
    keep: Count = setting(2, "newest checkpoints to keep, beside the best", ge=2)
    best_metric: Literal["fid", "kid"] = setting("fid", "the lower the better; decides which checkpoint is the best")


class LogConfig(Section):
    """What is written down."""

    every_kimg: Number = setting(1.0, "images between two lines of metrics.jsonl and TensorBoard", unit="kimg", gt=0)
    samples_every_kimg: Number = setting(20.0, "images between two sample grids", unit="kimg", gt=0)
    grid: Count = setting(100, "images in a sample grid", ge=1, le=4096)
    tensorboard: bool = setting(True, "write TensorBoard events")


class MetricsConfig(Section):
    """Measurement of the averaged generator."""

    names: list[Literal["fid", "kid", "precision-recall", "density-coverage", "inception-score", "modes"]] = setting(
        ["fid", "kid"], "metrics in the loop; class histogram and KL come with any classifier"
    )
    every_kimg: Number = setting(40.0, "images between two measurements", unit="kimg", gt=0)
    samples: Count = setting(5000, "generated images for each measurement in the loop", unit="images", ge=2)
    final_samples: Count = setting(10000, "generated images for the last measurement", unit="images", ge=2)
    extractor: str = setting(
        "auto",
        "feature extractor: auto, digits, inception, random-conv, efficientnet-lite0, torchvision:NAME, or "
        "package.module:Class",
    )
    weights: str | None = setting(None, "file with the extractor's weights")
    holdout: Number = setting(
        0.1, "auxiliary classifier: share of the images that is not trained on, to measure its accuracy", ge=0, le=0.5
    )
    batch_size: Count = setting(500, "images a worker pushes through the networks at once", unit="images", ge=1)

    @field_validator("extractor")
    @classmethod
    def _extractor(cls, value: str) -> str:
        if value not in EXTRACTORS and not (value.count(":") == 1 and all(value.split(":"))):
            near = difflib.get_close_matches(value, EXTRACTORS, 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"allowed: {', '.join(EXTRACTORS)}, torchvision:NAME, package.module:Class{hint}")
        return value


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
    metric: list[Literal["fid", "kid", "class_kl", "modes"]] = setting(
        ["fid"],
        "objective, of the averaged generator (of modes more is better); of several the first decides, and optuna "
        "proposes for all",
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
    batch_size: Count = setting(32, "images in a step, all workers together", unit="images", ge=1)
    seed: Count = setting(0, "every random draw of the run follows from it", ge=0, lt=2**63)
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
    def _recipe_of_the_data(cls, values: Any) -> Any:
        return with_recipe(values) if isinstance(values, Mapping) else values

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
        if value is not None and (not value.strip() or value.startswith(".") or any(c in value for c in "/\\?#\n\0")):
            raise ValueError(
                "must be a plain folder name, without / \\ ? # and not starting with a dot; the folder above it is "
                "--storage"
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
        return self.name or Path(self.data.name.rstrip("/")).stem or "run"

    @property
    def total_images(self) -> int:
        """The budget in images, rounded up to whole steps."""
        step = self.batch_size * self.training.n_dis
        return math.ceil(round(self.kimg * 1000) / step) * step
