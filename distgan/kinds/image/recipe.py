"""Defaults that follow the data. What shows before the images are open (channels, sizes, the machine) is `recipe`; what
only they tell is `decide`. jobs/configs/README.md has the measurements.
"""

from __future__ import annotations

import glob
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgan.config import RunConfig
from distgan.kinds.base import SampleSet, SampleSpec

GAMMA = 0.01
"""The penalties' weight for each unit of `spread`."""
LOOKED_AT, SIDE = 500, 64
"""Images that the spread is taken from, and the side that larger ones are averaged down to."""
FEW = 1000
"""Images below which D learns the set by heart within minutes."""
POLICY, OVERFITTING = ["translate", "scale", "colour", "cutout"], 0.2
"""How few images are augmented, and the overfitting r_v that this is steered to."""
RATE = 3e-3
"""G's learning rate for few images: at twice that, the general one, G was lost within minutes."""
NARROW = 16
"""Width of both networks for pictures in colour on processors: as good as twice the width for the same images, at 2.4
times the speed.
"""
LARGE = 128
"""Side from which on the general networks, DCGAN's, collapse: G falls behind D."""
FOR_LARGE: dict[str, Any] = {
    "model.name": "r3gan",
    "training.reuse_fakes": False,
    **{f"optim.{player}.lr": 2e-4 for player in "gd"},
    **{f"optim.{player}.beta2": 0.9 for player in "gd"},
    **{f"optim.{player}.lr_schedule.final": 0.25 for player in "gd"},
    **{f"optim.{player}.beta2_schedule.kind": "cosine" for player in "gd"},
    **{f"optim.{player}.beta2_schedule.final": 0.1 for player in "gd"},
}
"""Networks and rates for them, as published: Huang et al., 2024, configuration E. Nobody has trained them here."""
DIGITS = ("stacked-mnist",)
"""Sets in colour that are none of pictures."""


def recipe(config: RunConfig, spec: SampleSpec) -> dict[str, Any]:
    """Dotted name -> value. Under other networks or losses than it was measured with, the general defaults hold."""
    model = config.model
    measured = (model.name, model.g_norm, model.d_norm, config.loss.name) == ("dcgan", "none", "none", "relativistic")
    if not measured:
        return {}
    if max(spec.shape[1:]) >= LARGE:
        return dict(FOR_LARGE)
    few = spec.n is not None and spec.n < FEW
    labelled = model.conditioned_on(spec.n_classes if config.data.labels else 0) != "none"
    # Without labels bilinear upsampling lost G, on icons and on photographs; transposed convolutions did not
    smooth: dict[str, Any] = {"model.g_upsampling": "bilinear"} if labelled or few else {}
    if few:
        smooth["optim.g.lr"] = RATE
    if spec.shape[0] == 1 or config.data.name in DIGITS or _may_have_gpus(config):
        return smooth
    return smooth | {"model.g_width": NARROW, "model.d_width": NARROW}


def decide(config: RunConfig, samples: SampleSet) -> dict[str, Any]:
    """The penalties' weight by the images' spread, augmentation by their number."""
    gamma = float(f"{max(GAMMA * spread(samples.samples), 1e-3):.2g}")  # what machines add in another order is beyond
    decided: dict[str, Any] = {"loss.r1_gamma": gamma, "loss.r2_gamma": gamma}
    if len(samples) >= FEW:
        return decided | {"augment.kind": "none"}
    if config.augment.kind != "auto":
        return decided
    policy = POLICY if not config.training.deterministic else ["colour", "cutout"]  # the others move pixels
    return decided | {"augment.kind": "diffaugment", "augment.policy": policy, "augment.target": OVERFITTING}


def spread(images: NDArray[Any]) -> float:
    """How far images, stored (N, C, H, W), differ from each other along the directions in which they differ most: with
    the eigenvalues l of the pixels' covariance, in the range [-1, 1], sum(l^2) / sum(l). 0 where all are alike.

    A gradient penalty is a price on the slope of D over a distance in pixels: where images lie twice as far apart, it
    must be four times as large for D to tell them apart at the same price, and sum(l^2) / sum(l) is such a squared
    distance. It grows with the number of pixels as StyleGAN's rule of thumb does (gamma ~ side^2), and tells digits,
    which differ in many directions a little, from photographs, which differ in few, brightness above all.
    """
    places = np.linspace(0, len(images) - 1, min(LOOKED_AT, len(images))).astype(np.int64)
    x, factor = smaller(np.asarray(images[places]))
    flat = x.reshape(len(x), -1)
    flat -= flat.mean(0)
    products = flat @ flat.T
    own = float(np.trace(products)) / len(x)
    others = products - np.diag(np.diag(products))
    pairs = len(x) * (len(x) - 1)
    return factor * float(np.square(others, dtype=np.float64).sum()) / pairs / own if pairs and own > 1e-9 else 0.0


def smaller(images: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
    """Images uint8 (N, C, H, W) as float32 in [-1, 1], of at most about SIDE pixels a side (means over squares), and
    how many pixels each of them stands for.
    """
    by = max(1, max(images.shape[2:]) // SIDE)
    height, width = (side // by for side in images.shape[2:])
    x = images[:, :, : height * by, : width * by].astype(np.float32)
    x = x.reshape(*images.shape[:2], height, by, width, by).mean((3, 5))
    return x / 127.5 - 1, float(by * by)


def _may_have_gpus(config: RunConfig) -> bool:
    """Whether the workers may have GPUs, as far as it shows without importing torch."""
    joined = config.engine == "ray" and (config.ray.address or os.environ.get("RAY_ADDRESS"))
    return bool(joined or gpu_devices()) and config.ray.gpus_per_worker != 0


def gpu_devices() -> list[str]:
    """Device files of GPUs here."""
    return [*glob.glob("/dev/nvidia[0-9]*"), *glob.glob("/dev/kfd")]
