"""Ways back to a state that was good: at every start, and after divergence."""

from __future__ import annotations

import math

from distgan.config import ConfigError, RunConfig, RunError
from distgan.kinds import SampleSet
from distgan.storage import Folder
from distgan.training.blow_up import WINDOW
from distgan.training.checkpoint import CheckpointStore
from distgan.training.context import Context
from distgan.training.identity import check_same_data, remember_data
from distgan.training.logs import RunLog
from distgan.training.state import TrainState


class DivergedError(RunError):
    """Losses or gradients are no longer finite, and going back did not help or was not wanted."""


def restore(state: TrainState, store: CheckpointStore, context: Context, samples: SampleSet) -> None:
    """Continue from the newest intact checkpoint. Rank 0 decides which one that is; the others read the same.

    Raises ConfigError, on all ranks, where they do not read the same samples, or not those that the run was started on;
    and the same for pretrained weights that D looks through.
    """
    first = context.broadcast((samples.fingerprint, len(samples), state.pretrained))
    context.together(lambda: _compare(samples, state.pretrained, *first))
    found = store.newest() if context.is_main else None
    nimg = context.broadcast(found[0] if found else None)
    if nimg is not None:
        context.together(lambda: state.load_state_dict(found[1] if found else store.load(nimg)[1]))
    elif (source := state.config.finetune) is not None:
        raise ConfigError(
            f"finetune = {source}: {store.folder} has no intact checkpoint to begin with, where every worker can read "
            "it; remove that folder, and the same command takes the weights again"
        )
    before, state.data = state.data, samples.fingerprint
    context.together(lambda: _agree(before, samples, store.folder))
    if context.is_main:
        remember_data(store.folder, samples)


def _agree(before: str, samples: SampleSet, folder: Folder) -> None:
    """ConfigError where these are not the samples of the checkpoint."""
    check_same_data(folder, samples)
    if before not in ("", samples.fingerprint):  # a run of before data.json; checkpoints of older ones do not say
        raise ConfigError(
            f"data.name: {samples.spec.name} is not what {folder} was started on. Put the samples back as they were; "
            "or give another --name, which begins anew"
        )


def _compare(samples: SampleSet, pretrained: str, fingerprint: str, n: int, first_pretrained: str) -> None:
    if samples.fingerprint != fingerprint:
        raise ConfigError(
            f"data.name: the workers read different samples of {samples.spec.name} ({len(samples):,} here, {n:,} at "
            "the first worker); allowed: the same files on every node, for example a folder that all of them mount"
        )
    if pretrained != first_pretrained:
        raise ConfigError(
            "model.pretrained: the workers read different weights; allowed: the same package, or the same file for "
            "model.pretrained_weights, on every node"
        )


def roll_back(
    state: TrainState, store: CheckpointStore, context: Context, log: RunLog | None, config: RunConfig
) -> None:
    """Non-finite numbers, seen by all workers in the same step: back to the last good checkpoint, with new noise."""
    where, rollbacks = state.nimg, state.rollbacks + 1
    blow_ups = round(-math.log2(state.rate_factor))  # are told and counted apart
    stop = config.training.on_divergence == "stop" or rollbacks - blow_ups > config.training.max_rollbacks
    if log is not None:
        store.wait()
    if stop:
        if log is not None:
            log.event(where, f"diverged at {where / 1000:g} kimg")
        raise DivergedError(
            f"losses or gradients are not finite at {where / 1000:g} kimg (rollbacks so far: {state.rollbacks}). Try a "
            "lower optim.d.lr and optim.g.lr, or loss.r1_gamma > 0; training.max_rollbacks allows more attempts"
        )
    found = store.newest() if context.is_main else None
    nimg = context.broadcast(found[0] if found else None)
    if nimg is None:
        raise DivergedError(f"losses are not finite at {where / 1000:g} kimg, and no checkpoint is intact")
    state.load_state_dict(found[1] if found else store.load(nimg)[1])
    state.rollbacks = rollbacks
    if log is not None:
        log.rewind(state.nimg)
        log.event(state.nimg, f"diverged at {where / 1000:g} kimg: gone back to the last checkpoint, on with new noise")
        # Remembered at once, so that a restart from here takes the new way too
        store.save(state.nimg, state.state_dict(), best=state.best.get("nimg"))


def slow_down(state: TrainState, store: CheckpointStore, context: Context, log: RunLog | None) -> None:
    """A blow-up, seen by all workers in the same step: back to a checkpoint of before it began, with half the learning
    rates and new noise.
    """
    where, rollbacks, factor = state.nimg, state.rollbacks + 1, state.rate_factor / 2
    if log is not None:
        store.wait()
    found = store.newest(regular_until=where - 2 * WINDOW) if context.is_main else None
    nimg = context.broadcast(found[0] if found else None)
    if nimg is not None:
        state.load_state_dict(found[1] if found else store.load(nimg)[1])
    state.rollbacks, state.rate_factor = rollbacks, factor
    if log is None:
        return
    text = f"blow-up at {where / 1000:g} kimg: D's loss over 1,000 samples was twice that of guessing. Gone back to"
    if nimg is None:  # damaged, or deleted by hand
        text = f"blow-up at {where / 1000:g} kimg, and no checkpoint of before it. On from"
    else:
        log.rewind(nimg)
    log.event(state.nimg, f"{text} {state.nimg / 1000:g} kimg, on with {factor:g} times the learning rates of optim")
    # Remembered at once, so that a restart takes the new way too
    store.save(state.nimg, state.state_dict(), best=state.best.get("nimg"))
    store.remove_later(state.nimg)
