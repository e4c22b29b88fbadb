"""What a step sees: real samples and their labels, noise and labels for generated ones, and the draws of augmentation.

All of it is a function of the seed and the number of samples seen so far. A worker computes its share of the global
batch, so that any number of workers, started anew any number of times, see what one worker sees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from distgan.config import RunConfig
from distgan.gan.schedules import value
from distgan.kinds.loader import Loader
from distgan.randomness import integers, latents, uniform
from distgan.training.context import Context, share
from distgan.training.state import TrainState

NUMBERS_AT_ONCE = 2**19
"""Random numbers drawn at once: a few MiB."""
STEPS_AT_ONCE = 64


class Batch(NamedTuple):
    """The inputs of one player's step, this worker's share of them. None where the run has no use for one."""

    x: Tensor
    """Real samples, float32 (N, *shape)."""
    c: Tensor | None
    """Their labels, int64 (N,)."""
    z: Tensor
    """Noise, float32 (N, latent_dim)."""
    c_fake: Tensor | None
    """Labels of the generated samples, int64 (N,)."""
    alpha: Tensor | None = None
    """Share of the real sample where WGAN-GP mixes real and generated ones, (N,)."""
    sample_index: Tensor | None = None
    """Sample numbers that augmentation draws by, int64 (N,)."""
    penalty_scale: float | Tensor = 1.0
    """The present factor of loss.r1_gamma and loss.r2_gamma; a scalar tensor where a CUDA graph reads it."""
    augment_p: float | Tensor | None = None
    """Probability of each augmentation."""

    def part(self, rows: slice) -> Batch:
        """Some of the samples; what holds for all of them stays."""
        x, c, z, c_fake, alpha, index = (None if v is None else v[rows] for v in self[:6])
        assert x is not None
        assert z is not None
        return Batch(x, c, z, c_fake, alpha, index, self.penalty_scale, self.augment_p)


class Inputs:
    """The inputs of all steps of a run, for one worker."""

    def __init__(self, config: RunConfig, context: Context, state: TrainState, loader: Loader) -> None:
        self.config, self.context, self.state, self.loader = config, context, state, loader
        self.start, self.stop = share(config.batch_size, context.rank, context.world_size)
        self.share_weight = (self.stop - self.start) * context.world_size / config.batch_size
        """What a mean over this worker's share counts in a mean over workers; 1 where all have equal shares."""
        self.draws = DrawBuffer(config.batch_size, self.start, self.stop, context.device)
        self._labels = loader.labels if state.n_classes else None
        """What labels of generated samples are picked from: the data's own, or each class once."""
        if state.n_classes and config.training.fake_labels == "balanced":
            self._labels = torch.arange(state.n_classes, device=context.device)
        self._scalars: dict[str, tuple[float, Tensor]] = {}

    def real(self, nimg: int) -> tuple[Tensor, Tensor | None]:
        """Real samples and labels (None without conditioning) of the step that begins at nimg; the next ones are
        fetched.
        """
        x, c = self.loader.batch(nimg + self.start, nimg + self.stop)
        after = nimg + self.config.batch_size
        self.loader.prefetch(after + self.start, after + self.stop)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return x, c if self._labels is not None else None

    def noise(self, player: str, nimg: int) -> tuple[Tensor, Tensor | None]:
        """Noise, and labels for what is made of it, of player "d" or "g" in the step that begins at nimg."""
        seed, model = self.config.seed, self.config.model
        stream = self.stream(f"{player}/z")
        z = self.draws(
            stream, nimg, model.latent_dim, lambda index: latents(seed, stream, index, model.latent_dim, model.latent)
        )
        if self._labels is None:
            return z, None
        labels, stream_c = self._labels, self.stream(f"{player}/c")
        return z, self.draws(stream_c, nimg, 1, lambda index: labels[integers(seed, stream_c, index, len(labels))])

    def alpha(self, nimg: int) -> Tensor | None:
        """Where WGAN-GP's penalty is taken between real and generated samples: U[0, 1), float32 (N,)."""
        if not self.config.loss.gp_lambda:
            return None
        return uniform(self.config.seed, "gp", nimg + self.draws.own, 1)[:, 0]

    def augmentation(self, nimg: int, *, on_device: bool) -> tuple[Tensor | None, float | Tensor | None]:
        """(sample numbers int64 (N,), probability) of the step's augmentations; both None without any."""
        if self.config.augment.kind == "none":
            return None, None
        p = self.augment_p()
        return nimg + self.draws.own, p if isinstance(p, Tensor) else self._scalar("p", p, on_device)

    def augment_p(self) -> float | Tensor:
        """The probability of each augmentation now: steered by overfitting, a scalar tensor, or scheduled."""
        config = self.config.augment
        if config.target is not None:
            return self.state.augment_p
        return value(config.p, config.p_schedule, self.state.nimg, self.config.total_images)

    def penalty_scale(self, *, on_device: bool) -> float | Tensor:
        """The factor of the penalties' weights now, after loss.gamma_schedule."""
        scale = value(1.0, self.config.loss.gamma_schedule, self.state.nimg, self.config.total_images)
        return self._scalar("penalty_scale", scale, on_device)

    def stream(self, name: str) -> str:
        """After a rollback the same samples meet new noise: the old way led to divergence."""
        return name if self.state.rollbacks == 0 else f"{name}/{self.state.rollbacks}"

    def _scalar(self, name: str, number: float, on_device: bool) -> float | Tensor:
        """A scheduled number as the step reads it: a CUDA graph reads it from the device."""
        if not on_device:
            return number
        held, tensor = self._scalars.get(name, (None, None))
        if held != number or tensor is None:
            tensor = torch.full((), number, device=self.context.device)
            self._scalars[name] = number, tensor
        return tensor


class DrawBuffer:
    """This worker's share of what is drawn for each step, for many steps at once: one step's draws are too few to be
    worth their operations. Draws are functions of the sample index, so that how many are made at once changes none of
    them.
    """

    def __init__(self, batch: int, start: int, stop: int, device: torch.device) -> None:
        """batch: samples of a step, all workers together, of which this one sees start..stop-1."""
        self.batch, self.own = batch, torch.arange(start, stop, device=device)
        self._held: dict[str, tuple[int, Tensor]] = {}

    def __call__(self, stream: str, nimg: int, width: int, draw: Callable[[Tensor], Tensor]) -> Tensor:
        """draw(index) for the step at nimg samples: index int64 (N,) to values (N, ...), `width` numbers of each."""
        first, values = self._held.get(stream, (nimg, None))
        step, rest = divmod(nimg - first, self.batch)
        if values is None or rest or not 0 <= step < len(values):
            steps = max(1, min(STEPS_AT_ONCE, NUMBERS_AT_ONCE // (len(self.own) * width)))
            starts = nimg + self.batch * torch.arange(steps, device=self.own.device)
            drawn, step = draw((starts[:, None] + self.own).flatten()), 0
            values = drawn.view(steps, len(self.own), *drawn.shape[1:])
            self._held[stream] = (nimg, values)
        return values[step]
