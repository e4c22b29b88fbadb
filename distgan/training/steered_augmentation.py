"""Augmentation that follows overfitting: as probable as it takes for D to see held-out samples as it sees the others.

ADA (Karras et al., 2020, section 3.1) steers by the sign of D at real samples, or by r_v, which needs samples that are
held out and is defined for every loss; here it is r_v. It is looked at every thousand images, whatever is logged, so
that a resumed run steers as an uninterrupted one does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distgan.config import RunConfig
from distgan.gan.overfitting import overfitting
from distgan.randomness import integers, latents
from distgan.training.context import Context
from distgan.training.holdout import HeldOut, encoded
from distgan.training.state import TrainState
from distgan.training.train_step import TrainStep

WINDOW = 1000
"""Images between two looks."""
SAMPLES = 64
"""Held-out samples of a look, as many others, and as many generated ones."""
KEPT = 0.9
"""Share of the looks before in the averages that r_v is taken of: one look is noise."""


class SteeredAugmentation:
    """Moves `state.augment_p` towards augment.target; does nothing where that is empty."""

    def __init__(
        self, config: RunConfig, context: Context, state: TrainState, step: TrainStep, held_out: HeldOut
    ) -> None:
        self.config, self.context, self.state, self.step, self.held_out = config, context, state, step, held_out
        self.active = config.augment.kind != "none" and config.augment.target is not None and len(held_out.index) > 0

    def look(self) -> None:
        """After a step: every WINDOW images, measure r_v and move p by a step up or down. All workers call it."""
        state, config, size = self.state, self.config.augment, self.step.samples
        if not self.active or state.nimg // WINDOW == (state.nimg - size) // WINDOW:
            return
        now = self.context.broadcast([float(gap) for gap in overfitting(*self._logits())])
        state.overfitting = [KEPT * old + (1 - KEPT) * new for old, new in zip(state.overfitting, now, strict=True)]
        assert config.target is not None
        moved = max(WINDOW, size) / (config.ramp_kimg * 1000)
        p = float(state.augment_p) + (moved if self.r_v > config.target else -moved)
        state.augment_p.fill_(min(1.0, max(0.0, p)))

    @property
    def r_v(self) -> float:
        """Overfitting over the last looks."""
        apart, range_ = self.state.overfitting
        return apart / max(range_, 1e-6)

    def values(self) -> dict[str, float]:
        """{"r_v": overfitting}, {} where it is not looked at."""
        return {"r_v": self.r_v} if self.active else {}

    @torch.no_grad()
    def _logits(self) -> tuple[Tensor, Tensor, Tensor]:
        """D's logits (n,) of samples that it learns from, of held-out ones and of generated ones, all augmented as in
        training, and of the same classes.
        """
        state, step, held, seed = self.state, self.step, self.held_out, self.config.seed
        number, device = state.nimg // WINDOW, self.context.device
        draws = torch.arange(number * SAMPLES, (number + 1) * SAMPLES)
        assert held.rest is not None
        out = held.index[draws % len(held.index)]
        seen = held.rest[integers(seed, "r_v/train", draws, len(held.rest))]
        labels = None if held.samples.labels is None else torch.from_numpy(held.samples.labels)
        model, index = self.config.model, draws.to(device)
        z = latents(seed, "r_v/z", index, model.latent_dim, model.latent)
        networks = [m for network in (state.D, state.G) for m in network.modules() if m.training]
        for module in networks:  # running statistics must not move
            module.training = False
        try:
            logits = []
            for name, places in (("train", seen), ("held out", out), ("fake", seen)):
                c = None if labels is None or not state.n_classes else labels[places].to(device)
                x = state.G(z, c).float() if name == "fake" else encoded(held.samples, held.kind, places, device)
                if step.augment is not None:
                    x = step.augment(x, index, state.augment_p, f"r_v/{name}")
                output: Any = state.D(x, c)
                logits.append((output[0] if isinstance(output, tuple) else output).float())
        finally:
            for module in networks:
                module.training = True
        return logits[0], logits[1], logits[2]
