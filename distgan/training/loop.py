"""The training loop. `train` reads from top to bottom; one step of the two players is in train_step.py.

    while samples seen < budget:
        D step (n_dis times), G step, EMA of G
        now and then: log, sample grid, measure, checkpoint

Progress is counted in real samples shown to D. Which samples, latents, labels and augmentations a step uses depends on
the seed and that count alone: not on the number of workers, nor on where a run was interrupted. All workers run this
same code and make the same decisions; only rank 0 writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from distgan.config import RunConfig, RunError
from distgan.kinds import SampleSet, get_kind, open_samples
from distgan.kinds.loader import Loader
from distgan.randomness import DataOrder
from distgan.storage import Folder
from distgan.training.best import count_waiting, early_stop, export_best, export_generator, measure_averages, note_best
from distgan.training.blow_up import Watchdog, regular_checkpoints
from distgan.training.budget import plan
from distgan.training.checkpoint import CheckpointStore
from distgan.training.context import Context, Requests
from distgan.training.decide import decide
from distgan.training.finetune import told
from distgan.training.forecast import Forecast, introduce
from distgan.training.health import Health
from distgan.training.holdout import HeldOut
from distgan.training.logs import RunLog, Tell
from distgan.training.long_steps import LongSteps
from distgan.training.measurement import Measurement
from distgan.training.meter import Meter, Stopwatch
from distgan.training.recovery import restore, roll_back, slow_down
from distgan.training.state import TrainState, choose_kernels
from distgan.training.steered_augmentation import SteeredAugmentation
from distgan.training.train_step import TrainStep
from distgan.training.variety import Variety


def train(
    config: RunConfig,
    context: Context,
    folder: Folder,
    *,
    on_tick: Callable[[dict[str, Any]], None] | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Train until the budget is spent or a stop is asked for; returns the last status, whose `state` says which.

    `folder` is the run's place in storage. Every start is a resume: the newest intact checkpoint there, else the
    beginning. On rank 0 `on_tick` is called with the status after each log line, and `tell` with each event
    as it is recorded. Raises, on all workers alike, ConfigError for data that cannot be read, and DivergedError.
    """
    # The real samples
    samples = context.together(lambda: open_samples(config.data))
    kind, config = get_kind(config.data), config.for_classes(len(samples.classes))
    config, decided = decide(config, samples, context, folder)
    held_out = HeldOut(config, samples, kind)
    order, device_mib = DataOrder(len(samples), config.seed, held_out.rest), config.data.device_mib
    loader = Loader(samples, kind, context.device, order, device_mib=device_mib, config=config.data, seed=config.seed)

    # The two players, and where they left off
    choose_kernels(config, context.device)
    n_classes = len(samples.classes) if config.model.conditioning != "none" else 0
    arguments = kind.network_arguments(samples.spec)
    make = partial(TrainState, n_classes=n_classes, device=context.device, **arguments)
    config, planned = plan(config, context, folder, lambda: TrainStep(config, context, make(config=config), loader))
    state = make(config=config)
    store = CheckpointStore(
        folder, config.checkpoint.keep, on_trouble=context.request_stop, regular=regular_checkpoints(config)
    )
    if context.is_main:
        store.sweep()
    restore(state, store, context, samples)
    step = TrainStep(config, context, state, loader)

    # What is measured and written down
    meter, watch, health = Meter(), Stopwatch(), Health(config, state.health, kind.noun)
    variety, watchdog = Variety(config, context, samples, kind), Watchdog(config, context, state, step)
    steered = SteeredAugmentation(config, context, state, step, held_out)
    measure = Measurement(config, context, samples, kind, folder)
    log = RunLog(folder, state.nimg, config.log, tell) if context.is_main else None
    if log is not None and state.nimg == 0:
        log.picture(0, "reals", kind.preview(samples.samples[order(0, config.log.grid).numpy()]))
        log.picture(0, _kimg_name(0), measure.preview(state.ema.modules[0]))
    total, logged = config.total_images, state.nimg
    status = _status("training", state, total, {}, context)
    if log is not None:
        if state.nimg == 0:
            log.event(0, *told(folder), *samples.notes, *filter(None, (decided, planned)))
        log.event(state.nimg, *store.notes())
        log.tell(0, *introduce(config, state, context, samples.spec.shape, arguments))
        log.status(status, urgent=True)
        if state.nimg == 0:
            store.save(0, state.state_dict())  # so that there is always a state to go back to

    def alive(nimg: int, step_s: float = 0.0) -> None:
        """By the clock, and rank 0's alone: no decision and no line of the log depends on it."""
        if log is not None and log.silent_s >= config.log.every_s:
            rate = {"images_per_s": (nimg - logged) / (watch.elapsed - step_s)} if nimg > logged else {}
            now = status | {"nimg": nimg, "kimg": nimg / 1000, "values": status["values"] | rate, "step_s": step_s}
            log.status(now)
            if on_tick is not None:
                on_tick(now)

    run_step, slow, forecast = LongSteps(step, state, context, alive), True, Forecast(config, state.nimg)
    watch.lap()

    ended = config.training.has_waited_enough(state.waited)  # all workers know: what they measure is the same
    with context.stop_on_signals():
        while state.nimg < total and not ended:
            due = Due.at(state.nimg, step.samples, total, config)
            # Workers agree at log lines, and at every step where steps are slow; a worker that is alone always looks
            look = due.log or slow or context.world_size == 1
            asked = context.requests(run_step.seconds) if look else Requests(stop=False, checkpoint=False)
            stopping, slow = asked.stop, asked.slow
            reading = due.log or stopping or asked.checkpoint

            # A stop does not wait for a slow step: none is begun, or the one that has begun is taken back
            stats = None if stopping and slow else run_step(with_norms=reading)
            if stats is None:
                stopping = reading = True
                due = Due()
            else:
                meter.add(stats)
            if watchdog.blown_up(stats, read=reading):
                slow_down(state, store, context, log)
                meter, logged = Meter(), state.nimg
                watchdog.forget()
                watch.lap()
                continue
            if stats is not None:
                steered.look()
            if log is not None and not planned and (length := forecast(state.nimg)):
                log.tell(0, length)
            if not reading:
                alive(state.nimg)
                continue

            # Here alone do numbers leave the device
            steps, (values, of_step) = meter.steps, meter.read(context, step.inputs.share_weight)
            if not all(map(math.isfinite, values.values())):
                roll_back(state, store, context, log, config)
                watchdog.forget()
                logged = state.nimg
                watch.lap()
                continue
            if steps:
                rate = {"images_per_s": (state.nimg - logged) / watch.lap()}
                values |= rate | step.rates() | steered.values()
            else:  # a stop right after a log line, which told all
                values = dict(status["values"])
            logged = state.nimg
            with watch.paused():
                is_best = False
                measured: dict[str, float] = {}
                if due.measure:
                    chosen, measured = measure_averages(measure, state, config, due.last)
                    measured |= held_out.accuracy(state.D, context, config.metrics.batch_size)
                    values |= measured
                    is_best = note_best(state, measured, chosen, config.checkpoint.best_metric)
                    count_waiting(state, is_best)
                    ended = config.training.has_waited_enough(state.waited) and not (due.last or stopping)
                if (due.samples or ended) and log is not None:
                    log.picture(state.nimg, _kimg_name(state.nimg), measure.preview(state.ema.modules[0]))
                warnings = []
                if steps:
                    health.add(steps, state.nimg, values)
                if due.log:
                    values |= (varies := variety(step.G.module))
                    best = state.best.get("value")
                    warnings = health.look(
                        state.nimg, of_step | varies, measured, best, measure.counts, samples.classes
                    )
                if log is not None:
                    wanted = is_best or stopping or ended or asked.checkpoint
                    if wanted or (due.checkpoint and (due.last or store.idle_s >= config.checkpoint.pause_s)):
                        _save(state, store, log, samples, config)
                    store.hold()
                status = _status("stopped" if stopping and not due.last else "training", state, total, values, context)
                if log is not None:
                    if steps:
                        log.scalars(state.nimg, values)
                    log.event(state.nimg, *store.notes(), *warnings, *([early_stop(state)] if ended else []))
                    log.status(status)
                    if on_tick is not None:
                        on_tick(status)
                if (due.measure or due.checkpoint) and not (due.last or stopping or ended):
                    context.report({"kimg": state.nimg / 1000, **values})
            if stopping:
                break

    # The end: everything is in storage before anyone is told so
    problem = None
    if log is not None:
        try:
            store.wait()
            if state.nimg >= total or ended:
                export_best(state, store, samples, config)
                status = {**status, "state": "complete"}
            log.event(state.nimg, *store.notes())
            log.close()
        except (OSError, RunError) as error:
            problem = f"{folder}: {error}. The same command goes on from the last checkpoint"
            status = {**status, "state": "failed"}
        log.status(status, urgent=True)
    problem, status = context.broadcast((problem, status))
    context.report({"kimg": state.nimg / 1000, **status["values"]}, checkpoint=store.newest_written, last=True)
    context.leave()
    if problem:
        raise RunError(problem)
    return dict(status)


# ---------------------------------------------------------------------------------------------------------------------
# What happens now and then


@dataclass(frozen=True)
class Due:
    """What is to be done after a step. All of it depends on the number of samples alone."""

    last: bool = False
    log: bool = False
    samples: bool = False
    measure: bool = False
    checkpoint: bool = False

    @classmethod
    def at(cls, nimg: int, step: int, total: int, config: RunConfig) -> Due:
        """For the step of `step` samples that begins at nimg. Whatever is due comes with a log line; the last step has
        all.
        """
        last = nimg + step >= total

        def crosses(every_kimg: float) -> bool:
            every = every_kimg * 1000
            return last or math.floor((nimg + step) / every) > math.floor(nimg / every)

        samples, measure = crosses(config.log.samples_every_kimg), crosses(config.metrics.every_kimg)
        checkpoint = crosses(config.checkpoint.every_kimg)
        log = crosses(config.log.every_kimg) or samples or measure or checkpoint
        return cls(last, log, samples, measure, checkpoint)


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
        "waited": state.waited,
        "workers": context.world_size,
        "values": {k: v for k, v in values.items() if math.isfinite(v)},
    }
