"""Running averages of the generator's weights, measured in images, so that batch size and worker count do not change
them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from distgan.config import Schedule
from distgan.gan.schedules import value


def ema_decay(half_life_images: float, rampup: float, batch: int, nimg: float) -> float:
    """The share of the old average that a step of `batch` images keeps: 0.5^(batch / half-life).

    The half-life is at most `rampup` times the images seen, nimg, so that early averages forget the first weights
    (Karras et al., 2020, StyleGAN2-ADA's code); rampup 0 = no such limit. A half-life of 0 keeps nothing: the raw
    weights.
    """
    if rampup > 0:
        half_life_images = min(half_life_images, rampup * nimg)
    return 0.5 ** (batch / half_life_images) if half_life_images > 0 else 0.0


class GeneratorEMA:
    """Averages of one generator with several half-lives, in float32.

    Every worker holds them: the inputs are equal, so the averages are. Buffers (batch norm's statistics) are copied.
    The half-lives follow `schedule` over a run of `total_images`; with a warm-up they rise from 0, as in R3GAN (Huang
    et al., 2024, appendix).
    """

    def __init__(
        self,
        G: nn.Module,
        half_lives_kimg: Sequence[float],
        rampup: float = 0.05,
        schedule: Schedule | None = None,
        total_images: float = 0.0,
    ) -> None:
        self.half_lives_kimg, self.rampup = tuple(float(h) for h in half_lives_kimg), rampup
        self.schedule, self.total_images = schedule or Schedule(), total_images
        self.modules: list[nn.Module] = [
            copy.deepcopy(G).float().eval().requires_grad_(False) for _ in self.half_lives_kimg
        ]
        """One averaged generator a half-life, in evaluation mode, in the order given."""

    @torch.no_grad()
    def update(self, G: nn.Module, batch: int, nimg: float) -> None:
        """Take in the weights after a step of `batch` images (all workers together), with nimg images seen by now."""
        raw, buffers = list(G.parameters()), list(G.buffers())
        for half_life, average in zip(self.half_lives_kimg, self.modules, strict=True):
            now = value(half_life * 1000, self.schedule, nimg, self.total_images)
            decay = ema_decay(now, self.rampup, batch, nimg)
            torch._foreach_lerp_(list(average.parameters()), [p.float() for p in raw], 1 - decay)
            if buffers:
                torch._foreach_copy_(list(average.buffers()), buffers)

    def state_dict(self) -> dict[str, Tensor]:
        """All averages in one flat dict, "HALF_LIFE_KIMG/name" -> tensor."""
        pairs = zip(self.half_lives_kimg, self.modules, strict=True)
        return {
            f"{half_life:g}/{name}": value for half_life, module in pairs for name, value in module.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` gave; KeyError names a half-life that is not in it."""
        for half_life, module in zip(self.half_lives_kimg, self.modules, strict=True):
            prefix = f"{half_life:g}/"
            part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            if not part:
                held = sorted({name.partition("/")[0] for name in state})
                raise KeyError(
                    f"no average with a half-life of {half_life:g} kimg; the checkpoint has "
                    f"{', '.join(held) or 'none'} kimg"
                )
            module.load_state_dict(part)
