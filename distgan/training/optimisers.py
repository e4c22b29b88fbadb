"""Adam without torch's compiler.

torch (2.14) imports its compiler when an optimiser is made, when it steps and when it is loaded, to tell the compiler
to stay away: 0.8 s of the start of every process that trains, which starts in 2.5 s. Nothing here is compiled, so the
functions are taken from under the wrappers that do so (`inspect.unwrap`).
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from distgan.config import AdamConfig


class Adam(torch.optim.Adam):
    """torch.optim.Adam."""

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class AdamW(torch.optim.AdamW):
    """torch.optim.AdamW."""

    add_param_group, zero_grad, state_dict = Adam.add_param_group, Adam.zero_grad, Adam.state_dict
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def adam(network: nn.Module, settings: AdamConfig) -> Optimizer:
    """Adam, or AdamW where there is weight decay; one fused kernel a step."""
    kind = AdamW if settings.weight_decay else Adam
    return kind(
        network.parameters(),
        lr=settings.lr,
        betas=(float(settings.beta1), float(settings.beta2)),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def load(optimizer: Optimizer, state: dict[int, dict[str, Tensor]]) -> None:
    """Take over the averages of a checkpoint, state_dict()["state"], as Optimizer.load_state_dict does for a fused
    optimiser.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.state.clear()
    for index, averages in state.items():
        p = parameters[index]
        optimizer.state[p] = {
            name: value.to(p.device, torch.float32 if name == "step" else p.dtype) for name, value in averages.items()
        }
