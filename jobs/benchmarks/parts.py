"""The training loop's own parts in a process of the benchmark's, so that single steps can be run, timed and traced."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "r3gan": {"model.name": "r3gan", "data.resolution": 32, "batch_size": 16},
}
"""The default run, and the same recipe on the r3gan family's networks, which need a power of two as the images' side;
a smaller batch, as a processor takes a second for its step."""

CLASSIC = {
    "data.name": "mnist10k",
    "data.resolution": 32,
    "batch_size": 64,
    "model.name": "dcgan",
    "model.g_width": 32,
    "model.d_width": 32,
    "model.g_norm": "batch",
    "model.d_norm": "batch",
    "model.latent_dim": 100,
    "model.conditioning": "none",
    "loss.name": "non-saturating",
    "loss.r1_gamma": 0,
    "loss.r2_gamma": 0,
    "augment.kind": "none",
    **{
        f"optim.{player}.{name}": value
        for player in "gd"
        for name, value in (("lr", 2e-4), ("beta1", 0.5), ("beta2", 0.999))
    },
    **{f"optim.{player}.{name}_schedule.kind": "constant" for player in "gd" for name in ("lr", "beta2")},
}
"""DCGAN on 32 x 32 digits, as the tutorials have it: what all contenders of `throughput` train unless told
otherwise.
"""


def read_settings(options: argparse.Namespace, preset: str = "default", **changes: Any) -> Any:
    """The run that is measured: a preset, under what stands after `--`, under what the benchmark itself must set."""
    from distgan.config import load_config
    from distgan.config.command_line import parse_overrides

    file, typed = parse_overrides(options.settings)
    return load_config(file, {**PRESETS[preset], **typed, **changes})


@dataclass
class Parts:
    """What `distgan.training.loop.train` makes before its first step."""

    config: Any
    context: Any
    images: Any
    feed: Any
    state: Any
    step: Any
    """One call is one step of the loop; state.nimg tells how many images were seen."""


def open_data(config: Any, context: Any) -> tuple[Any, Any, Any]:
    """(settings with auto decided for this data, the images, the feed of batches)."""
    from distgan.kinds import get_kind, open_samples
    from distgan.kinds.loader import Loader
    from distgan.randomness import DataOrder

    images = context.together(lambda: open_samples(config.data))
    config = config.for_classes(len(images.classes))
    kind, order, settings = get_kind(config.data), DataOrder(len(images), config.seed), config.data
    feed = Loader(
        images, kind, context.device, order, device_mib=settings.device_mib, config=settings, seed=config.seed
    )
    return config, images, feed


def build_parts(config: Any, context: Any, images: Any, feed: Any) -> Parts:
    """Nets, optimisers and the step, on data that `open_data` opened."""
    from distgan.kinds import get_kind
    from distgan.training.state import TrainState
    from distgan.training.train_step import TrainStep

    kind = get_kind(config.data)
    n_classes = len(images.classes) if config.model.conditioning != "none" else 0
    arguments = kind.network_arguments(images.spec)
    state = TrainState(config, n_classes=n_classes, device=context.device, **arguments)
    return Parts(config, context, images, feed, state, TrainStep(config, context, state, feed))


def build(config: Any, context: Any | None = None) -> Parts:
    """All of it, in this process alone unless a context of several is given."""
    from distgan.training.context import Context

    context = context or Context()
    config, images, feed = open_data(config, context)
    return build_parts(config, context, images, feed)


def settle(device: Any) -> None:
    """Wait for a GPU, so that a clock read afterwards means something."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize()


def describe_run(config: Any, images: Any) -> str:
    """In words: what was trained."""
    penalty = f", R1 {config.loss.gammas[0]:g}, R2 {config.loss.gammas[1]:g}" if any(config.loss.gammas) else ""
    return (
        f"{config.model.name} (widths {config.model.g_width}, {config.model.d_width}), {config.loss.name}{penalty}, "
        f"{' x '.join(map(str, images.spec.shape))}"
    )
