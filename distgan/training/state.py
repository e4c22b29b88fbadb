"""Everything that a step changes, and so everything that a checkpoint holds."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.utils.deterministic
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from distgan.config import ConfigError, RunConfig
from distgan.gan.ema import GeneratorEMA
from distgan.gan.schedules import apply_adam
from distgan.models import build_discriminator, build_generator
from distgan.models.places import freeze_nearest
from distgan.training.context import Context
from distgan.training.optimisers import adam, load

SMALL = 2**24
"""Weights of G and D together up to which CUDA graphs are used unasked."""


class TrainState:
    """G, D, their optimisers, the averages of G, and the run's counters. Equal on all workers after every step."""

    def __init__(self, config: RunConfig, *, n_classes: int, device: torch.device, **arguments: Any) -> None:
        """arguments: of both networks, from `Kind.network_arguments`."""
        self.config, self.n_classes = config, n_classes
        shape = {"n_classes": n_classes, **arguments}
        self.G: nn.Module = build_generator(config.model, **shape, seed=config.seed)
        self.D: nn.Module = build_discriminator(config.model, **shape, seed=config.seed)
        freeze_nearest(self.D, config.training.freeze_d)
        averages = config.training
        self.ema = GeneratorEMA(
            self.G, averages.ema_half_life_kimg, averages.ema_rampup, averages.ema_schedule, config.total_images
        )
        for network in (self.G, self.D, *self.ema.modules):
            network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.g_opt, self.d_opt = adam(self.G, config.optim.g), adam(self.D, config.optim.d)
        self.nimg = 0
        self.augment_p = torch.tensor(config.augment.p, device=device)
        self.best: dict[str, Any] = {}
        self.waited = 0
        """Measurements in a row since the best one."""
        self.rollbacks = 0
        self.rate_factor = 1.0
        """What learning rates are multiplied by: halved at each blow-up."""
        self.window = [0.0, 0.0]
        """D's losses since the watchdog last judged: their sum, and of how many steps."""
        self.overfitting = [0.0, 0.0]
        """The numerator and denominator of r_v, averaged over the last windows; see `SteeredAugmentation`."""
        self.health: dict[str, list[float]] = {}
        self.data = ""  # hash of the real images

    def schedule(self) -> None:
        """Set both optimisers to what holds at the present number of images."""
        total = self.config.total_images
        apply_adam(self.g_opt, self.config.optim.g, self.nimg, total, self.rate_factor)
        apply_adam(self.d_opt, self.config.optim.d, self.nimg, total, self.rate_factor)

    @property
    def pretrained(self) -> str:
        """Hash of what D looks through and nobody trains, in hexadecimal; "" without model.pretrained."""
        digest = self.D.digest if self.config.model.pretrained != "none" else None
        return bytes(digest.tolist()).hex() if isinstance(digest, torch.Tensor) else ""

    def state_dict(self) -> dict[str, Any]:
        return {
            "G": self.G.state_dict(),
            "D": self.D.state_dict(),
            "ema": self.ema.state_dict(),
            "g_opt": self.g_opt.state_dict()["state"],
            "d_opt": self.d_opt.state_dict()["state"],
            "nimg": self.nimg,
            "augment_p": self.augment_p,
            "best": dict(self.best),
            "waited": self.waited,
            "rollbacks": self.rollbacks,
            "rate_factor": self.rate_factor,
            "window": list(self.window),
            "overfitting": list(self.overfitting),
            "data": self.data,
            "health": {rule: list(entry) for rule, entry in self.health.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint. Rates and betas are not in it: they come from the config and the number of images."""
        self.G.load_state_dict(state["G"])
        self.D.load_state_dict(state["D"])
        self.ema.load_state_dict(state["ema"])
        for optimizer, key in ((self.g_opt, "g_opt"), (self.d_opt, "d_opt")):
            load(optimizer, state[key])
        self.nimg = int(state["nimg"])
        self.augment_p.copy_(state["augment_p"])
        self.best = dict(state["best"])
        self.waited = int(state.get("waited", 0))  # checkpoints of before have none
        self.rollbacks = int(state["rollbacks"])
        self.rate_factor = float(state.get("rate_factor", 1.0))  # checkpoints of before have neither
        self.window = list(state.get("window", [0.0, 0.0]))
        self.overfitting = list(state.get("overfitting", [0.0, 0.0]))
        self.data = str(state.get("data", ""))
        self.health.clear()
        self.health.update(state.get("health", {}))  # checkpoints of before have none


def uses_bf16(config: RunConfig, device: torch.device) -> bool:
    choice = config.training.precision
    return choice == "bf16" or (choice == "auto" and device.type == "cuda")


def choose_kernels(config: RunConfig, device: torch.device) -> None:
    """On a GPU, for this process: only kernels that give the same bits every time, if training.deterministic asks for
    it.
    """
    wanted = config.training.deterministic and device.type == "cuda"
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    if wanted != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(wanted)
        torch.utils.deterministic.fill_uninitialized_memory = not wanted  # type: ignore[attr-defined]


def uses_cuda_graphs(config: RunConfig, context: Context, *networks: nn.Module) -> bool:
    """Whether backward passes run as CUDA graphs. Raises ConfigError where that is asked for and cannot be had.

    `auto` takes them for small networks, which gain most. Large ones keep a GPU busy anyhow, a graph holds the memory
    of a whole step, and with several workers DistributedDataParallel exchanges gradients while a backward pass lasts, a
    graph when it is over.
    """
    choice, on_gpu = config.training.cuda_graphs, context.device.type == "cuda"
    several = context.world_size > 1
    statistics = several and any(isinstance(m, _BatchNorm) for network in networks for m in network.modules())
    if choice == "on" and (not on_gpu or statistics):
        why = "needs a GPU"
        if on_gpu:
            why = "batch norm over several workers exchanges statistics in the middle of a step"
        raise ConfigError(f"training.cuda_graphs = 'on': {why}; allowed here: auto, off")
    if choice != "auto" or not on_gpu or statistics or config.model.generator or config.model.discriminator:
        return choice == "on"  # a network of the user's may decide things in Python at every step
    return sum(p.numel() for network in networks for p in network.parameters()) <= SMALL
