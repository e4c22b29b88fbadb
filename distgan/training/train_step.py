"""One training step: D learns n_dis times, then G once, then the EMA of G follows.

The losses are in gan/step.py; what they are computed on in inputs.py; how gradients are made and applied in player.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distgan.config import RunConfig
from distgan.gan.step import Augmentation, d_step_loss, frozen, g_step_loss
from distgan.kinds.loader import Loader
from distgan.training.context import Context
from distgan.training.ddp import average_buffers
from distgan.training.inputs import Batch, Inputs
from distgan.training.player import Player, Stats
from distgan.training.state import TrainState, uses_bf16, uses_cuda_graphs


class TrainStep:
    """One step of both players on a global batch, of which this worker computes its share."""

    def __init__(self, config: RunConfig, context: Context, state: TrainState, loader: Loader) -> None:
        self.config, self.context, self.state = config, context, state
        self.inputs = Inputs(config, context, state, loader)
        self.augment = loader.kind.augmentation(config.augment, config.seed)
        self.samples = config.batch_size * config.training.n_dis
        """Real samples that a step adds to nimg."""
        self.graphs = uses_cuda_graphs(config, context, state.G, state.D)
        how: dict[str, Any] = {
            "batch_size": config.batch_size,
            "accumulate": config.training.accumulate,
            "autocast": torch.autocast(context.device.type, torch.bfloat16, enabled=uses_bf16(config, context.device)),
            "graph_pool": torch.cuda.graph_pool_handle() if self.graphs else None,  # type: ignore[no-untyped-call]
        }
        self.D = Player("d", state.D, state.d_opt, self._d_loss, context, **how)
        self.G = Player("g", state.G, state.g_opt, self._g_loss, context, **how)
        state.D, state.G = self.D.network, self.G.network
        # Where G learns from the samples that D was just shown, they are made once, by the wrapped G
        self.reuse = config.training.reuses_fakes
        self.fakes = CachedGenerator(self.G.module if self.reuse else state.G, keep_graph=self.reuse)

    def __call__(self, *, with_norms: bool = False) -> Stats:
        """Train D n_dis times and G once; returns statistics as tensors on the device."""
        config, state, inputs, graphs = self.config, self.state, self.inputs, self.graphs
        number = state.nimg // self.samples  # of this step
        penalty = {"with_penalty": number % config.loss.penalty_every == 0}
        state.schedule()
        scale = inputs.penalty_scale(on_device=graphs)

        for _ in range(config.training.n_dis):
            nimg = state.nimg
            x, c = inputs.real(nimg)
            z, c_fake = inputs.noise("d", nimg)
            index, p = inputs.augmentation(nimg, on_device=graphs)
            batch = Batch(x, c, z, c_fake, inputs.alpha(nimg), index, scale, p)
            stats = self.D.update(batch, with_norm=with_norms, rollbacks=state.rollbacks, **penalty)
            state.nimg += config.batch_size

        if not self.reuse:
            z, c_fake = inputs.noise("g", nimg)
        index, p = inputs.augmentation(nimg, on_device=graphs)
        # A graph of G's pass goes on from the graph of D's pass that made the samples: each kind of D's has one of G's
        follows = tuple(penalty.values()) if self.reuse else None
        with frozen(state.D):
            batch = Batch(x, c, z, c_fake, None, index, scale, p)
            stats |= self.G.update(batch, with_norm=with_norms, rollbacks=state.rollbacks, follows=follows)

        for network in (state.D, state.G):  # here, as the G step moves D's running statistics too
            average_buffers(network, self.context)
        state.ema.update(state.G, self.samples, state.nimg)
        return stats

    def _d_loss(self, batch: Batch, *, with_penalty: bool, rollbacks: int) -> tuple[Tensor, Stats]:
        return d_step_loss(
            self.fakes,
            self.D.module,
            batch.x,
            batch.c,
            batch.z,
            batch.c_fake,
            self.config.loss,
            penalty_scale=batch.penalty_scale,
            augment=self._augmentation("d", batch),
            with_penalty=with_penalty,
            alpha=batch.alpha,
        )

    def _g_loss(self, batch: Batch, *, rollbacks: int, follows: tuple[bool, ...] | None) -> tuple[Tensor, Stats]:
        G = self.fakes.again if self.reuse else self.G.module
        return g_step_loss(
            G,
            self.state.D,
            batch.x,
            batch.c,
            batch.z,
            batch.c_fake,
            self.config.loss,
            augment=self._augmentation("g", batch),
        )

    def _augmentation(self, player: str, batch: Batch) -> Augmentation | None:
        augment, stream = self.augment, self.inputs.stream
        index, p = batch.sample_index, batch.augment_p
        if augment is None or index is None or p is None:
            return None
        return lambda x, kind: augment(x, index, p, stream(f"{player}/augment/{kind}"))

    def rates(self) -> dict[str, float]:
        """What the schedules have come to: learning rates, probability of augmentation."""
        rates = {"g_lr": self.state.g_opt.param_groups[0]["lr"], "d_lr": self.state.d_opt.param_groups[0]["lr"]}
        return rates | ({"augment_p": float(self.inputs.augment_p())} if self.augment else {})


class CachedGenerator:
    """A generator that keeps what it made last, (samples, labels), for whoever looks at the step afterwards.

    keep_graph: the samples keep their graph where the caller wants none, so that `again` can train the generator with
    them.
    """

    last: tuple[Tensor, Tensor | None]

    def __init__(self, G: Callable[..., Tensor], *, keep_graph: bool = False) -> None:
        self.G, self.keep_graph = G, keep_graph

    def __call__(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        with torch.set_grad_enabled(self.keep_graph or torch.is_grad_enabled()):
            self.last = (self.G(z, c), c)
        return self.last[0]

    def again(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """The same samples, of the same z and c; G is not called. Their graph is the caller's from here on."""
        samples, c = self.last
        self.last = (samples.detach(), c)
        return samples
