"""How settings move during a run, as functions of the images seen."""

from __future__ import annotations

import math

import torch

from distgan.config import AdamConfig, Schedule


def value(base: float, schedule: Schedule, nimg: float, total_images: float) -> float:
    """The value at `nimg` images of a run of `total_images`.

    It rises from 0 to `base` over schedule.warmup_kimg, then moves to base * schedule.final over schedule.over_kimg (or
    the rest of the run), and stays there.
    """
    warmup = schedule.warmup_kimg * 1000
    if nimg < warmup:
        return base * nimg / warmup
    length = schedule.over_kimg * 1000 if schedule.over_kimg is not None else total_images - warmup
    progress = min((nimg - warmup) / length, 1.0) if length > 0 else 1.0
    if schedule.kind == "constant":
        progress = 0.0
    elif schedule.kind == "cosine":
        progress = 0.5 - 0.5 * math.cos(math.pi * progress)
    return base * (1 + progress * (schedule.final - 1))


def apply_adam(
    optimizer: torch.optim.Optimizer, adam: AdamConfig, nimg: float, total_images: float, factor: float = 1.0
) -> None:
    """Set the learning rate, times `factor`, and the betas that hold at `nimg` images in every parameter group.

    The schedule of beta2 acts on 1 - beta2: a final of 0.1 takes 0.9 to 0.99.
    """
    forget = value(1 - adam.beta2, adam.beta2_schedule, nimg, total_images)
    beta2 = 1 - min(max(forget, 1e-6), 1.0)  # beta2 = 1 would divide by zero in Adam's bias correction
    for group in optimizer.param_groups:
        group["lr"] = factor * value(adam.lr, adam.lr_schedule, nimg, total_images)
        group["betas"] = (float(adam.beta1), float(beta2))  # torch refuses a mix of int and float
