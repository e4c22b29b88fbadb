"""How much the discriminator has learned about the data: a linear probe on its penultimate features.

Radford et al., DCGAN, 2016, section 5.1 classify with a discriminator's features. Here a logistic regression on
D.features tells the classes of samples that it was not fitted on, beside the same on a discriminator with its first,
random weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from distgan.config import ConfigError, DataConfig, RunConfig
from distgan.kinds import Kind, SampleSet, get_kind, open_samples
from distgan.models import build_discriminator
from distgan.randomness import stream_key
from distgan.storage import Folder
from distgan.training.checkpoint import CheckpointStore
from distgan.training.holdout import HeldOut, encoded

MOST_NUMBERS = 2**27
"""Numbers in the features that the probe is fitted on: half a GiB."""
SAMPLES, HELD_OUT = 20_000, 10_000
"""At most so many to fit on, and to judge with."""
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Weights of the squared coefficients to choose from, on a tenth of the samples to fit on."""


def probe_run(
    run: Folder, config: RunConfig, data: DataConfig, *, classes: int, device: torch.device
) -> dict[str, Any]:
    """The probe's accuracy on held-out real samples, for the discriminator of a run's newest checkpoint.

    data: the real samples, of D's shape, with labels. classes: those that D was built for, 0 = none. Held out is the
    set's test split where it is at hand (D has not seen that either), else what the run kept from D, else a fifth of
    the samples, which D saw; the result says which. Raises ConfigError where there is no checkpoint, no
    label, or no D.features.
    """
    found = CheckpointStore(run).newest()
    if found is None:
        raise ConfigError(f"--linear-probe: {run} has no checkpoint, and the exported generator holds no discriminator")
    kind, real = get_kind(data), open_samples(data)
    if real.labels is None or len(real.classes) < 2:
        raise ConfigError(f"--linear-probe: {real.spec.name} has no class labels; --against DATA names data that has")
    shape = {**kind.network_arguments(real.spec), "n_classes": classes}
    untrained = build_discriminator(config.model, **shape, seed=config.seed)
    trained = build_discriminator(config.model, **shape, seed=config.seed)
    trained.load_state_dict(found[1]["D"])

    fit, (judge, held), where = _parts(real, kind, data, config)
    width = _features(trained, real, kind, fit[:1], device).shape[1]
    fit = _spread(fit, min(SAMPLES, MOST_NUMBERS // width))
    held = _spread(held, min(HELD_OUT, MOST_NUMBERS // width))
    y, y_held, accuracies = _labels(real, fit), _labels(judge, held), []
    for D in (trained, untrained):
        x, x_held = _features(D, real, kind, fit, device), _features(D, judge, kind, held, device)
        accuracies.append(linear_accuracy(x, y, x_held, y_held, len(real.classes)))
    return {
        "linear_probe": accuracies[0],
        "linear_probe_untrained": accuracies[1],
        "linear_probe_features": width,
        "linear_probe_fitted_on": len(fit),
        "linear_probe_held_out": len(held),
        "linear_probe_held_out_from": where,
    }


def linear_accuracy(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, classes: int) -> float:
    """Accuracy on x_test (M, F), y_test int64 (M,) of a logistic regression fitted to x (N, F), y int64 (N,).

    Features are scaled to mean 0 and deviation 1; the strength of the penalty is that which does best on every tenth
    row of x.
    """
    mean, std = x.mean(0), x.std(0)
    scale = torch.where(std > 1e-6 * std.max(), std, torch.inf)  # what never changes says nothing
    x, x_test = (x - mean) / scale, (x_test - mean) / scale
    part = torch.arange(len(x)) % 10 == 0
    if len(STRENGTHS) > 1 and int(part.sum()) >= 10:
        tried = [_accuracy(_fit(x[~part], y[~part], classes, strength), x[part], y[part]) for strength in STRENGTHS]
        strength = STRENGTHS[max(range(len(tried)), key=tried.__getitem__)]
    else:
        strength = STRENGTHS[-1]
    return _accuracy(_fit(x, y, classes, strength), x_test, y_test)


def _fit(x: Tensor, y: Tensor, classes: int, strength: float) -> nn.Linear:
    """Logistic regression, by L-BFGS from zero: the objective is convex, so nothing is drawn."""
    layer = nn.Linear(x.shape[1], classes, device="meta").to_empty(device=x.device)  # draws nothing
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=60, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        total: Tensor = cross_entropy(layer(x), y) + strength * layer.weight.square().sum() / 2
        torch.autograd.backward(total)
        return total

    optimizer.step(loss)  # type: ignore[arg-type, no-untyped-call]
    return layer


@torch.no_grad()
def _accuracy(layer: nn.Linear, x: Tensor, y: Tensor) -> float:
    return float((layer(x).argmax(1) == y).double().mean())


def _parts(
    real: SampleSet, kind: Kind, data: DataConfig, config: RunConfig
) -> tuple[Tensor, tuple[SampleSet, Tensor], str]:
    """(index to fit on, (samples, index) to judge with, where the latter are from)."""
    if data.split == "train" and kind.knows(data.name):
        try:
            test = open_samples(data.model_copy(update={"split": "test", "download": False, "limit": None}))
        except ConfigError:
            pass  # there is none, or not here
        else:
            if test.classes == real.classes:
                return torch.arange(len(real)), (test, torch.arange(len(test))), f"{test.spec.name}'s test split"
    held = HeldOut(config, real, kind)
    same = all(getattr(config.data, key) == getattr(data, key) for key in ("name", "root", "split", "limit"))
    if same and held.rest is not None:
        return held.rest, (real, held.index), "samples that the run kept from the discriminator"
    generator = torch.Generator().manual_seed(stream_key(config.seed, "linear probe") & (2**63 - 1))
    order = torch.randperm(len(real), generator=generator)
    return (
        order[len(real) // 5 :],
        (real, order[: len(real) // 5]),
        "the samples themselves, not fitted on, which D has seen",
    )


def _spread(index: Tensor, most: int) -> Tensor:
    """At most so many, evenly over the index."""
    count = max(1, min(most, len(index)))
    return index[torch.arange(count) * len(index) // count]


def _labels(samples: SampleSet, index: Tensor) -> Tensor:
    assert samples.labels is not None
    return torch.from_numpy(np.asarray(samples.labels)[index.numpy()]).long()


@torch.inference_mode()
def _features(D: nn.Module, samples: SampleSet, kind: Kind, index: Tensor, device: torch.device) -> Tensor:
    """Penultimate features float32 (N, F) of samples by index int64 (N,), on the CPU."""
    features = getattr(D, "features", None)
    if features is None:
        raise ConfigError(f"--linear-probe: {type(D).__name__} has no method features(x), (N, *shape) -> (N, F)")
    D.to(device).eval()
    return torch.cat(
        [features(encoded(samples, kind, part, device)).float().flatten(1).cpu() for part in torch.split(index, 250)]
    ).clone()
