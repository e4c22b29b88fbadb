"""Defaults that follow the data: known sets have the recipe that was measured on them, and pictures in colour another
one than digits.
"""

from __future__ import annotations

import glob
import os
from typing import Any

from distgan.config import RunConfig
from distgan.kinds.base import SampleSpec

GAMMAS = {"mnist10k": 0.1, "mnist": 0.1, "fashion-mnist": 0.3}
"""The penalties' weight by data set, measured over two and three seeds (README)."""
COLOUR = {"loss.r1_gamma": 0.3, "loss.r2_gamma": 0.3}
"""For pictures in colour (jobs/configs/README.md)."""
NARROW = 16
"""Width of both networks for them on processors: as good as twice the width for the same images, at 2.4 times the
speed.
"""
DIGITS = ("stacked-mnist",)
"""Sets in colour that are none of pictures."""


def recipe(config: RunConfig, spec: SampleSpec) -> dict[str, Any]:
    """Dotted name -> value. Under other networks or losses than it was measured with, the general defaults hold."""
    model = config.model
    measured = (model.name, model.g_norm, model.d_norm, config.loss.name) == ("dcgan", "none", "none", "relativistic")
    if not measured:
        return {}
    gamma = GAMMAS.get(config.data.name)
    if gamma is not None:
        return {"loss.r1_gamma": gamma, "loss.r2_gamma": gamma}
    if spec.shape[0] == 1 or config.data.name in DIGITS:
        return {}
    return COLOUR | ({} if _may_have_gpus(config) else {"model.g_width": NARROW, "model.d_width": NARROW})


def _may_have_gpus(config: RunConfig) -> bool:
    """Whether the workers may have GPUs, as far as it shows without importing torch."""
    joined = config.engine == "ray" and (config.ray.address or os.environ.get("RAY_ADDRESS"))
    return bool(joined or gpu_devices()) and config.ray.gpus_per_worker != 0


def gpu_devices() -> list[str]:
    """Device files of GPUs here."""
    return [*glob.glob("/dev/nvidia[0-9]*"), *glob.glob("/dev/kfd")]
