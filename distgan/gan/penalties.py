"""Gradient penalties on the discriminator, per sample.

The inner gradient is torch.autograd.grad(create_graph=True), never .backward(create_graph=True), which would run
DistributedDataParallel's hooks in the middle; the penalty is then part of the same scalar, and the same backward, as
the loss.

With loss.penalty_every = n a penalty counts n times in every n-th step. StyleGAN2 (Karras et al., 2020, appendix B)
corrects Adam for lazy regularisation, rates and log betas times n / (n + 1), because there the penalty is a step of its
own: n + 1 updates where there were n. Here it is part of the loss of a step that takes place anyhow: n updates stay n,
and there is nothing to correct. What stays in both is that Adam's mean of squares sees rarer and larger gradients: for
the exact trade-off use n = 1, the default.

Under autocast the discriminator's layers keep their bf16 kernels, as in R3GAN; the images, their gradients and the
norms are float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distgan.second_order import images_only, no_autocast


def input_gradients(logits: Tensor, samples: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of each sample's logit in that sample, float32, differentiable; shapes as `samples`, each (N, ...).

    logits: (M,), of any number of stacked samples. One inner gradient serves all of them at once: the sum's derivative
    in a sample is its own logit's, as long as no layer mixes samples.
    """
    with no_autocast(logits), images_only():
        return [g.float() for g in torch.autograd.grad(logits.float().sum(), list(samples), create_graph=True)]


def squared_norm(gradient: Tensor) -> Tensor:
    """|gradient|^2 of each sample, (N, ...) -> (N,). R1 and R2 are its mean over real and generated samples, times
    gamma / 2 (Mescheder et al., 2018, eq. 9 and 10).
    """
    return gradient.square().flatten(1).sum(1)


def gradient_gap(gradient: Tensor, target: float) -> Tensor:
    """(|gradient| - target)^2 of each sample, (N, ...) -> (N,): target 1 is WGAN-GP (Gulrajani et al., 2017, eq.
    3), target 0 is the zero-centred form (Thanh-Tung et al., 2019).
    """
    if target == 0:
        return squared_norm(gradient)
    # The norm has no derivative at 0; the small number keeps that sample's gradient at 0 in place of NaN.
    return ((squared_norm(gradient) + 1e-12).sqrt() - target).square()


def mix(x_real: Tensor, x_fake: Tensor, alpha: Tensor) -> Tensor:
    """Points between real and generated samples (N, ...): alpha (N,) in [0, 1), the share of the real one."""
    return torch.lerp(x_fake, x_real, alpha.view(-1, *(1,) * (x_real.ndim - 1)))
