"""The training loop. `train` reads from top to bottom; `Alternation` is one step of the two players.

    while images seen < budget:
        D step (n_dis times), G step, running averages of G
        now and then: log, sample grid, measure, checkpoint

Progress is counted in real images shown to D. Which images, latents, labels and augmentations a step uses depends on
the seed and that count alone: not on the number of workers, nor on where a run was interrupted. All workers run this
same code and make the same decisions; only rank 0 writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distgan.config import RunConfig, RunError
from distgan.gan.diversity import Remembering, diversity
from distgan.gan.schedules import adapt_p, value
from distgan.gan.step import asked_labels, d_step_loss, frozen, g_step_loss
from distgan.kinds import Kind, SampleSet, get_kind, open_samples
from distgan.kinds.loader import Loader
from distgan.randomness import DataOrder, integers, latents, uniform
from distgan.storage import Folder
from distgan.training.best import export_best, export_generator, measure_averages, note_best
from distgan.training.checkpoint import CheckpointStore
from distgan.training.context import Context, share
from distgan.training.cuda_graphs import Recorded
from distgan.training.ddp import LateGradients, RecordedGradients, average_buffers, replicate, same_start
from distgan.training.health import Health
from distgan.training.holdout import HeldOut
from distgan.training.inputs import Draws
from distgan.training.logs import RunLog
from distgan.training.measurement import Measurement
from distgan.training.meter import Meter, Stopwatch
from distgan.training.recovery import restore, roll_back
from distgan.training.state import (
    TrainState,
    choose_kernels,
    compile_networks,
    gradient_norm,
    layout,
    records,
    uses_bf16,
)


def train(
    config: RunConfig, context: Context, folder: Folder, *, on_tick: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Train until the budget is spent or a stop is asked for; returns the last status, whose `state` says which.

    `folder` is the run's place in storage. Every start is a resume: the newest intact checkpoint there, else the
    beginning. `on_tick` is called on rank 0 with the status after each log line. Raises, on all workers alike,
    ConfigError for data that cannot be read, and DivergedError.
    """
    # The real samples
    samples = context.together(lambda: open_samples(config.data))
    kind, config = get_kind(config.data), config.for_classes(len(samples.classes))
    held_out = HeldOut(config, samples, kind)
    loader = Loader(
        samples,
        kind,
        context.device,
        DataOrder(len(samples), config.seed, held_out.rest),
        device_mib=config.data.device_mib,
        config=config.data,
        seed=config.seed,
    )

    # The two players, and where they left off
    choose_kernels(config, context.device)
    n_classes = len(samples.classes) if config.model.conditioning != "none" else 0
    arguments = kind.network_arguments(samples.spec)
    state = TrainState(config, n_classes=n_classes, device=context.device, **arguments)
    store = CheckpointStore(folder, config.checkpoint.keep, on_trouble=context.request_stop)
    if context.is_main:
        store.sweep()
    notes = restore(state, store, context, samples)
    step = Alternation(config, context, state, loader, samples, kind)

    # What is measured and written down
    meter, watch, health = Meter(), Stopwatch(), Health(config, state.health)
    measure = Measurement(config, context, samples, kind, folder)
    log = RunLog(folder, state.nimg, config.log) if context.is_main else None
    if log is not None and state.nimg == 0:
        log.picture(0, "reals", kind.preview(samples.samples[loader.order(0, config.log.grid).numpy()]))
        log.picture(0, _kimg_name(0), measure.preview(state.ema.modules[0]))
    total, logged = config.total_images, state.nimg
    status = _status("training", state, total, {}, context)
    if log is not None:
        log.event(state.nimg, *([samples.note] if samples.note else []), *notes, *store.notes())
        log.status(status, urgent=True)
        if state.nimg == 0:
            store.save(0, state.state_dict())  # so that there is always a state to go back to
    watch.lap()

    with context.stop_on_signals():
        while state.nimg < total:
            last = state.nimg + step.images >= total
            due_log, due_samples, due_measure, due_checkpoint = (
                last or _crosses(state.nimg, step.images, every)
                for every in (
                    config.log.every_kimg,
                    config.log.samples_every_kimg,
                    config.metrics.every_kimg,
                    config.checkpoint.every_kimg,
                )
            )
            due_log = due_log or due_samples or due_measure or due_checkpoint
            stopping = context.stop_agreed() if due_log or context.world_size == 1 else False
            regular, due_log = due_log, due_log or stopping

            meter.add(step(with_norms=due_log))
            if not due_log:
                continue
            wanted = context.checkpoint_wanted()

            # Here alone do numbers leave the device
            values, of_step = meter.read(context, step.weight)
            if not all(map(math.isfinite, values.values())):
                roll_back(state, store, context, log, config)
                logged = state.nimg
                watch.lap()
                continue
            values |= {"images_per_s": (state.nimg - logged) / watch.lap(), **step.rates()}
            logged = state.nimg
            with watch.paused():
                if due_samples and log is not None:
                    log.picture(state.nimg, _kimg_name(state.nimg), measure.preview(state.ema.modules[0]))
                is_best = False
                measured: dict[str, float] = {}
                if due_measure:
                    chosen, measured = measure_averages(measure, state, config, last)
                    measured |= held_out.accuracy(state.D, context, config.metrics.batch_size)
                    values |= measured
                    is_best = note_best(state, measured, chosen, config.checkpoint.best_metric)
                warnings = (
                    health.look(state.nimg, of_step, measured, state.best.get("value"), measure.counts, samples.classes)
                    if regular
                    else []
                )
                rested = last or store.idle_s >= config.checkpoint.pause_s
                if ((due_checkpoint and rested) or is_best or stopping or wanted) and log is not None:
                    _save(state, store, log, samples, config)
                if log is not None:
                    store.hold()
                status = _status("stopped" if stopping and not last else "training", state, total, values, context)
                if log is not None:
                    log.scalars(state.nimg, values)
                    log.event(state.nimg, *store.notes(), *warnings)
                    log.status(status)
                    if on_tick is not None:
                        on_tick(status)
                if due_measure or due_checkpoint:
                    context.report({"kimg": state.nimg / 1000, **values}, last=last)
            if stopping:
                break

    # The end: everything is in storage before anyone is told so
    problem = None
    if log is not None:
        try:
            store.wait()
            if state.nimg >= total:
                export_best(state, store, samples, config)
                status = {**status, "state": "complete"}
            log.event(state.nimg, *store.notes())
            log.close()
        except (OSError, RunError) as error:
            problem, status = (
                f"{folder}: {error}. The same command goes on from the last checkpoint",
                {**status, "state": "failed"},
            )
        log.status(status, urgent=True)
    problem, status = context.broadcast((problem, status))
    context.leave()
    if problem:
        raise RunError(problem)
    return dict(status)


class Alternation:
    """One step of each player on a global batch, of which this worker sees its share. `images` is what a step adds to
    nimg.
    """

    def __init__(
        self, config: RunConfig, context: Context, state: TrainState, loader: Loader, samples: SampleSet, kind: Kind
    ) -> None:
        self.config, self.context, self.state, self.loader = config, context, state, loader
        recording = records(config, context, state.G, state.D)
        self.G_ddp, self.D_ddp = (n if recording else replicate(n, context) for n in (state.G, state.D))
        # SyncBatchNorm replaces modules, so what is stepped and saved is what the replicas hold
        state.G, state.D = (getattr(r, "module", r) for r in (self.G_ddp, self.D_ddp))
        self.images = config.batch_size * config.training.n_dis
        labels = samples.labels if config.model.conditioning != "none" else None
        self.labels = torch.as_tensor(labels, device=context.device) if labels is not None else None
        if self.labels is not None and config.training.fake_labels == "balanced":
            self.labels = torch.arange(len(samples.classes), device=context.device)
        self.augment = kind.augmentation(config.augment, config.seed)
        # channels_last is a layout of images (N, C, H, W)
        self.layout = layout(config) if len(samples.spec.shape) == 3 else torch.contiguous_format
        self.autocast = torch.autocast(context.device.type, torch.bfloat16, enabled=uses_bf16(config, context.device))
        start, stop = share(config.batch_size, context.rank, context.world_size)
        self.start, self.stop = start, stop
        self.draws = Draws(config.batch_size, start, stop, context.device)
        # DDP averages over workers, losses are means over a worker's share: this makes them means over the global batch
        self.weight = (stop - start) * context.world_size / config.batch_size
        parts = min(config.training.accumulate, stop - start)
        self.parts = [slice(*share(stop - start, i, parts)) for i in range(parts)]
        # What D is shown; G may then be trained on the same images
        reuse = self.reuse = config.training.reuses_fakes
        self.shown = Remembering(self.G_ddp if reuse else state.G, for_gradients=reuse)
        # Where all is done in one part, G makes the images of its step while D's gradients are on their way
        self.early = Remembering(self.G_ddp, for_gradients=True)
        self.ahead = len(self.parts) == 1 and context.world_size > 1 and not reuse and not recording
        self.frozen_D = compile_networks(state, config)
        self.D_backward: Callable[..., dict[str, Tensor]] = self._D_backward
        self.G_backward: Callable[..., dict[str, Tensor]] = self._G_backward
        self.D_gradients: LateGradients | RecordedGradients = LateGradients(self.D_ddp)
        self.G_gradients: LateGradients | RecordedGradients = LateGradients(
            state.G
        )  # a replica's have come when its backward pass ends
        self._numbers: dict[str, tuple[float, Tensor]] = {}
        if recording:
            same_start(state.G, context)
            same_start(state.D, context)
            pool = torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]
            self.D_backward = on_d = Recorded(self._D_backward, list(state.D.parameters()), pool)
            self.G_backward = on_g = Recorded(self._G_backward, list(state.G.parameters()), pool)
            self.D_gradients, self.G_gradients = RecordedGradients(on_d, context), RecordedGradients(on_g, context)

    def __call__(self, *, with_norms: bool = False) -> dict[str, Tensor]:
        """Train D n_dis times and G once; returns statistics as tensors on the device."""
        config, state, D, G = self.config, self.state, self.state.D, self.state.G
        state.schedule()
        gamma = self._number("gamma", value(1.0, config.loss.gamma_schedule, state.nimg, config.total_images))
        number = state.nimg // self.images  # of this step

        for left in reversed(range(config.training.n_dis)):
            at = state.nimg
            x, c = self.loader.batch(state.nimg + self.start, state.nimg + self.stop)
            x, c = x.contiguous(memory_format=self.layout), self._real_labels(c)
            self.loader.prefetch(
                state.nimg + config.batch_size + self.start, state.nimg + config.batch_size + self.stop
            )
            z, c_fake = self._z("d", at), self._fake_labels("d", at)
            mixing = uniform(config.seed, "gp", at + self.draws.own, 1)[:, 0] if config.loss.gp_lambda else None
            state.d_opt.zero_grad(set_to_none=True)
            with_penalty = number % config.loss.penalty_every == 0
            how = {"with_penalty": with_penalty, "with_diversity": with_norms, "rollbacks": state.rollbacks}
            d_stats = self.D_backward(x, c, z, c_fake, mixing, gamma, *self._augmenting(at), **how)
            if left == 0 and not self.reuse:
                z, c_fake = self._z("g", at), self._fake_labels("g", at)
            if left == 0 and self.ahead:  # D's gradients are still on their way: they are waited for below
                with self.autocast:
                    self.early(z, asked_labels(c, c_fake, config.loss))
            self.D_gradients.wait()
            if with_norms:
                d_stats["d_grad_norm"] = gradient_norm(D)
            state.d_opt.step()
            state.nimg += config.batch_size
            if config.augment.target is not None:
                self._adapt(d_stats["sign_stat"])

        state.g_opt.zero_grad(set_to_none=True)
        after = (with_penalty, with_norms) if self.reuse else None
        stats = d_stats | self.G_backward(
            x, c, z, c_fake, *self._augmenting(at), rollbacks=state.rollbacks, after=after
        )
        self.G_gradients.wait()
        if with_norms:
            stats["g_grad_norm"] = gradient_norm(G)
        state.g_opt.step()
        for network in (D, G):  # here, as the G step moves D's running statistics too
            average_buffers(network, self.context)
        state.ema.update(G, self.images, state.nimg)
        return stats

    # The two backward passes: functions of tensors, so that a GPU can record them

    def _D_backward(
        self,
        x: Tensor,
        c: Tensor | None,
        z: Tensor,
        c_fake: Tensor | None,
        mixing: Tensor | None,
        gamma: Any,
        index: Any,
        p: Any,
        *,
        with_penalty: bool,
        with_diversity: bool,
        rollbacks: int,
    ) -> dict[str, Tensor]:
        """D's loss and its gradients in D's parameters."""
        found = []
        for part in self.parts:
            with self._last_alone(self.D_ddp, part), self.autocast:
                loss, stats = d_step_loss(
                    self.shown,
                    self.D_ddp,
                    x[part],
                    _cut(c, part),
                    z[part],
                    _cut(c_fake, part),
                    self.config.loss,
                    gamma=gamma,
                    augment=self._augmentation("d", index, p, part, rollbacks),
                    with_penalty=with_penalty,
                    share=_cut(mixing, part),
                )
                torch.autograd.backward(loss * self._weight(part))
            found.append(stats)
        stats = self._mean(found)
        if with_diversity:
            stats["diversity"] = diversity(*self.shown.last, x[part], _cut(c, part))
        return stats

    def _G_backward(
        self,
        x: Tensor,
        c: Tensor | None,
        z: Tensor,
        c_fake: Tensor | None,
        index: Any,
        p: Any,
        *,
        rollbacks: int,
        after: tuple[bool, bool] | None,
    ) -> dict[str, Tensor]:
        """G's loss and its gradients in G's parameters. after: the kind of D step just before, where its images are
        reused: a recording goes on from that of D in which they were made, so that each kind has its own.
        """
        make = self.shown.again if self.reuse else self.early.again if self.ahead else self.G_ddp
        found = []
        with frozen(self.state.D):
            for part in self.parts:
                with self._last_alone(self.G_ddp, part), self.autocast:
                    loss, stats = g_step_loss(
                        make,
                        self.frozen_D,
                        x[part],
                        _cut(c, part),
                        z[part],
                        _cut(c_fake, part),
                        self.config.loss,
                        augment=self._augmentation("g", index, p, part, rollbacks),
                    )
                    torch.autograd.backward(loss * self._weight(part))
                found.append(stats)
        return self._mean(found)

    # A worker's share may be computed in parts; then gradients and statistics add up to those of the whole.

    def _weight(self, part: slice) -> float:
        return int(part.stop - part.start) * self.context.world_size / self.config.batch_size

    def _last_alone(self, network: nn.Module, part: slice) -> AbstractContextManager[Any]:
        """Only the last part's backward pass exchanges gradients, of all parts."""
        return (
            network.no_sync()
            if isinstance(network, DistributedDataParallel) and part is not self.parts[-1]
            else nullcontext()
        )

    def _mean(self, found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        if len(found) == 1:
            return found[0]
        own = self.stop - self.start
        shares = [(part.stop - part.start) / own for part in self.parts]
        pairs = list(zip(found, shares, strict=True))
        return {name: torch.stack([stats[name] * s for stats, s in pairs]).sum(0) for name in found[0]}

    def rates(self) -> dict[str, float]:
        rates = {"g_lr": self.state.g_opt.param_groups[0]["lr"], "d_lr": self.state.d_opt.param_groups[0]["lr"]}
        return rates | ({"augment_p": float(self.state.augment_p)} if self.augment else {})

    def _stream(self, name: str, rollbacks: int | None = None) -> str:
        """After a rollback the same images meet new noise: the old way led to divergence."""
        rollbacks = self.state.rollbacks if rollbacks is None else rollbacks
        return name if rollbacks == 0 else f"{name}/{rollbacks}"

    def _z(self, player: str, at: int) -> Tensor:
        seed, model, stream = self.config.seed, self.config.model, self._stream(f"{player}/z")
        return self.draws(
            stream, at, model.latent_dim, lambda index: latents(seed, stream, index, model.latent_dim, model.latent)
        )

    def _real_labels(self, c: Tensor | None) -> Tensor | None:
        return c if self.labels is not None else None

    def _fake_labels(self, player: str, at: int) -> Tensor | None:
        """Those of images picked at random, or each as often as the others."""
        if self.labels is None:
            return None
        seed, labels, stream = self.config.seed, self.labels, self._stream(f"{player}/c")
        return self.draws(stream, at, 1, lambda index: labels[integers(seed, stream, index, len(labels))])

    def _augmenting(self, at: int) -> tuple[Tensor | None, float | Tensor | None]:
        """(sample indices, probability) of the augmentations of the step at `at` images; both None without any."""
        config = self.config.augment
        if self.augment is None:
            return None, None
        if config.target is not None:
            return at + self.draws.own, self.state.augment_p
        p = value(config.p, config.p_schedule, self.state.nimg, self.config.total_images)
        return at + self.draws.own, self._number("p", p)

    def _augmentation(
        self, player: str, index: Any, p: Any, part: slice, rollbacks: int
    ) -> Callable[[Tensor, str], Tensor] | None:
        augment = self.augment
        if augment is None:
            return None
        return lambda x, kind: augment(x, index[part], p, self._stream(f"{player}/augment/{kind}", rollbacks))

    def _number(self, name: str, number: float) -> Any:
        """A number that follows a schedule, as the step reads it: a recorded step reads it from the device."""
        if not isinstance(self.D_backward, Recorded):
            return number
        held, on_device = self._numbers.get(name, (None, None))
        if held != number or on_device is None:
            on_device = torch.full((), number, device=self.context.device)
            self._numbers[name] = number, on_device
        return on_device

    def _adapt(self, sign: Tensor) -> None:
        config = self.config.augment
        assert config.target is not None
        sign = self.context.all_reduce_sum(sign * self.weight) / self.context.world_size
        self.state.augment_p.copy_(
            adapt_p(self.state.augment_p, sign, config.target, self.config.batch_size, config.ramp_kimg)
        )


# ---------------------------------------------------------------------------------------------------------------------
# What happens now and then


def _cut(values: Tensor | None, part: slice) -> Tensor | None:
    return None if values is None else values[part]


def _crosses(nimg: int, step: int, every_kimg: float) -> bool:
    """Whether a multiple of `every_kimg` lies in the step's images."""
    every = every_kimg * 1000
    return math.floor((nimg + step) / every) > math.floor(nimg / every)


def _kimg_name(nimg: int) -> str:
    return f"{nimg // 1000:06d}"


def _save(state: TrainState, store: CheckpointStore, log: RunLog, samples: SampleSet, config: RunConfig) -> None:
    """Checkpoint and, from the same copy of the weights, the generator as it is now; the log files follow to
    storage.
    """

    def export(saved: dict[str, Any]) -> None:
        export_generator(store.folder, saved, samples, config, which=0)
        log.sync()

    store.save(state.nimg, state.state_dict(), best=state.best.get("nimg"), then=export)


def _status(kind: str, state: TrainState, total: int, values: dict[str, float], context: Context) -> dict[str, Any]:
    return {
        "state": kind,
        "nimg": state.nimg,
        "kimg": state.nimg / 1000,
        "total_kimg": total / 1000,
        "best": state.best,
        "workers": context.world_size,
        "values": {k: v for k, v in values.items() if math.isfinite(v)},
    }
