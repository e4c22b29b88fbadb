"""Augmentation of what D sees, real and generated alike, so that it cannot learn a small data set by heart.

Two pipelines: DiffAugment (Zhao et al., 2020) and one after ADA (Karras et al., 2020, appendix B). Each image gets each
transformation of the policy with probability p. All of them are linear or affine in the image and can be differentiated
twice, as R1 needs. The draws are those of `randomness`, by sample index: the same on any number of workers and after a
restart.

                DiffAugment                              ADA
    flip        left to right, every second              the same
    rotate90    by a random multiple of 90 degrees (180  the same
                where height and width differ)
    translate   whole pixels, up to 1/8 of the side      the same
    rotate      up to 15 degrees                         any angle
    scale       up to a factor of 1.25 either way        factor 2^N(0, 0.2)
    outside     0 (grey)                                 mirrored
    colour      brightness + U(-0.5, 0.5), contrast      brightness + N(0, 0.2), contrast and
                x U(0.5, 1.5), saturation x U(0, 2)      saturation x 2^N(0, 0.5)
    cutout      half of height and width, 0 (grey)       the same

Of images with opacity, colour changes the colours alone, which are multiplied by it; outside and cutout are half
transparent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distgan import randomness
from distgan.config import AugmentConfig

_COLUMNS = 20  # uniform numbers an image, for all transformations whether in use or not: a policy changes no other draw


class Augment:
    """The pipeline that `config` describes; with kind "none" it changes nothing."""

    def __init__(self, config: AugmentConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.policy = frozenset(config.policy) if config.kind != "none" else frozenset()

    def __call__(self, x: Tensor, index: Tensor, p: float | Tensor, stream: str) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] -> the same shape, possibly beyond [-1, 1].

        index: int64 (N,), sample indices; p: probability of each transformation, a number or a scalar tensor; stream:
        name that sets draws for the same index apart ("d/real", "g/fake", ...). Images that no transformation meets
        come back bit for bit.
        """
        if not self.policy or (not isinstance(p, Tensor) and p <= 0):
            return x
        with torch.autocast(x.device.type, enabled=False):  # places in an image need more than bf16's 8 bits
            draws = iter(
                randomness.uniform(self.seed, f"augment/{stream}", index.to(x.device), _COLUMNS).to(x.dtype).unbind(1)
            )
            x = self._geometry(x, draws, p)
            x = self._colour(x, draws, p)
            return self._cutout(x, draws, p)

    def _geometry(self, x: Tensor, draws: Iterator[Tensor], p: float | Tensor) -> Tensor:
        """Everything that moves pixels, as one affine warp: A maps places in the new image to places in the old one."""
        n, ada = len(x), self.config.kind == "ada"
        height, width = x.shape[2:]
        side = max(height, width)  # A's unit is half of it in both directions, so that a turn keeps shapes
        one, zero = x.new_ones(n), x.new_zeros(n)
        A, touched = torch.eye(3, dtype=x.dtype, device=x.device).expand(n, 3, 3), zero > 0

        def apply(name: str, met: Tensor, rows: list[Tensor]) -> None:
            nonlocal A, touched
            if name in self.policy:
                step = torch.stack([*rows, zero, zero, one], 1).view(n, 3, 3)
                A = torch.where(met.view(-1, 1, 1), A @ step, A)
                touched = touched | met

        def turn(name: str, met: Tensor, angle: Tensor) -> None:
            cos, sin = angle.cos(), angle.sin()
            apply(name, met, [cos, -sin, zero, sin, cos, zero])

        met, u = next(draws) < p, next(draws)
        apply("flip", met & (u < 0.5), [-one, zero, zero, zero, one, zero])
        met, u = next(draws) < p, next(draws)
        if height == width:
            turn("rotate90", met & (u >= 0.25), (u * 4).floor() * (math.pi / 2))
        else:  # a quarter turn would leave the frame
            turn("rotate90", met & (u >= 0.5), torch.full_like(u, math.pi))
        met, u, v = next(draws) < p, next(draws), next(draws)
        dx, dy = (
            ((t * (2 * reach + 1)).floor() - reach) * (2 / side)
            for t, reach in ((u, math.floor(width / 8 + 0.5)), (v, math.floor(height / 8 + 0.5)))
        )
        apply("translate", met, [one, zero, dx, zero, one, dy])
        met, u = next(draws) < p, next(draws)
        turn("rotate", met, (2 * u - 1) * (math.pi if ada else math.pi / 12))
        met, u = next(draws) < p, next(draws)
        factor = torch.exp2(_normal(u) * 0.2) if ada else torch.exp((2 * u - 1) * math.log(1.25))
        apply("scale", met, [factor, zero, zero, zero, factor, zero])

        if self.policy.isdisjoint(("flip", "rotate90", "translate", "rotate", "scale")):
            return x
        if height != width:  # from and to the places of affine_grid, where each direction has its own unit
            unit = torch.cat([x.new_full((1,), share) for share in (width / side, height / side, 1)])
            A = A * unit / unit[:, None]
        grid = F.affine_grid(A[:, :2], list(x.shape), align_corners=False)
        warped: Tensor = _Warp.apply(x, grid, "reflection" if ada else "zeros")
        return torch.where(touched.view(-1, 1, 1, 1), warped, x)

    def _colour(self, x: Tensor, draws: Iterator[Tensor], p: float | Tensor) -> Tensor:
        """Brightness, contrast around the image's mean, saturation around the pixel's mean; each with probability p."""
        met, values = ([v.view(-1, 1, 1, 1) for v in group] for group in _six(draws, p))
        if "colour" not in self.policy:
            return x
        if x.shape[1] == 4:
            return torch.cat([self._colours(x[:, :3], met, values), x[:, 3:]], 1)
        return self._colours(x, met, values)

    def _colours(self, x: Tensor, met: list[Tensor], values: list[Tensor]) -> Tensor:
        (met_b, met_c, met_s), (b, c, s), ada = met, values, self.config.kind == "ada"
        x = torch.where(met_b, x + (_normal(b) * 0.2 if ada else b - 0.5), x)
        mean = x.mean((1, 2, 3), keepdim=True)
        x = torch.where(met_c, torch.lerp(mean, x, torch.exp2(_normal(c) * 0.5) if ada else c + 0.5), x)
        if x.shape[1] == 1:
            return x
        grey = x.mean(1, keepdim=True).expand_as(x)
        return torch.where(met_s, torch.lerp(grey, x, torch.exp2(_normal(s) * 0.5) if ada else 2 * s), x)

    def _cutout(self, x: Tensor, draws: Iterator[Tensor], p: float | Tensor) -> Tensor:
        met, u, v = next(draws) < p, next(draws), next(draws)
        if "cutout" not in self.policy:
            return x
        inside_y, inside_x = (
            ((torch.arange(side, device=x.device, dtype=x.dtype) + 0.5) / side - centre[:, None]).abs() < 0.25
            for side, centre in ((x.shape[2], v), (x.shape[3], u))
        )
        hole = met.view(-1, 1, 1) & inside_y[:, :, None] & inside_x[:, None, :]
        return x.masked_fill(hole[:, None], 0.0)


def _six(draws: Iterator[Tensor], p: float | Tensor) -> tuple[list[Tensor], list[Tensor]]:
    pairs = [(next(draws) < p, next(draws)) for _ in range(3)]
    return [met for met, _ in pairs], [u for _, u in pairs]


def _normal(u: Tensor) -> Tensor:
    """U[0, 1) in steps of 2^-24 to N(0, 1), finite at both ends."""
    normal: Tensor = torch.special.ndtri(u.clamp(2.0**-25, 1 - 2.0**-24))
    return normal


class _Warp(torch.autograd.Function):
    """Bilinear sampling at fixed places. As it is linear in the image, its derivative is its adjoint, and the adjoint's
    is itself: any number of derivatives from grid_sample's first one, which not every torch can differentiate again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor, padding: str) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.padding = padding
        return F.grid_sample(x, grid, padding_mode=padding, align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _WarpAdjoint.apply(gradient, ctx.saved_tensors[0], ctx.padding), None, None


class _WarpAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, grid: Tensor, padding: str) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.padding = padding
        with torch.enable_grad():
            x = torch.zeros_like(y, requires_grad=True)
            warped = F.grid_sample(x, grid, padding_mode=padding, align_corners=False)
        return torch.autograd.grad(warped, x, y)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _Warp.apply(gradient, ctx.saved_tensors[0], ctx.padding), None, None
