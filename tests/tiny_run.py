"""The settings of a run that takes a second; a module of its own, as there are several conftest.py."""

from __future__ import annotations

from typing import Any

TINY: dict[str, Any] = {
    "engine": "local",
    "kimg": 1.024,
    "batch_size": 32,
    "data.limit": 256,
    "model.name": "mlp",
    "model.latent_dim": 8,
    "model.g_width": 8,
    "model.d_width": 8,
    "model.g_norm": "batch",
    "model.d_norm": "batch",
    "model.conditioning": "none",
    "loss.name": "non-saturating",
    "loss.r1_gamma": 0,
    "loss.r2_gamma": 0,
    **{
        f"optim.{player}.{name}": value
        for player in "gd"
        for name, value in (("lr", 2e-4), ("beta1", 0.5), ("beta2", 0.999), ("eps", 1e-8))
    },
    **{f"optim.{player}.{name}_schedule.kind": "constant" for player in "gd" for name in ("lr", "beta2")},
    "loss.gp_lambda": 0,
    "augment.kind": "none",
    "training.ema_half_life_kimg": "[0.2]",
    "training.reuse_fakes": False,
    "log.every_kimg": 0.128,
    "log.samples_every_kimg": 0.512,
    "log.grid": 4,
    "log.tensorboard": False,
    "checkpoint.every_kimg": 0.256,
    "checkpoint.pause_s": 0,
    "metrics.every_kimg": 0.512,
    "metrics.samples": 64,
    "metrics.final_samples": 64,
    "metrics.names": "[fid]",
}
"""A whole run, logs, measurements and checkpoints included, that takes about a second: 32 steps on 256 of the packaged
digits.

It says whatever matters to a step, so that a better default recipe changes no test.
"""
