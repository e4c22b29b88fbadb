"""From a `ModelConfig` to two networks, with weights that follow from a seed, so that all workers build the same."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from distgan.config import ConfigError, ModelConfig
from distgan.models.pretrained import needs_trial
from distgan.randomness import stream_key
from distgan.registry import NETWORKS, by_path

PROJECTED = "distgan.models.projected:ProjectedDiscriminator"
"""The discriminator on frozen features, of model.pretrained."""


def build_generator(model: ModelConfig, *, n_classes: int = 0, seed: int = 0, **arguments: Any) -> nn.Module:
    """G with G(z float (N, latent_dim), c int64 (N,) or None) -> x float (N, *shape), samples in the range of the data.

    arguments: what the kind of sample tells every network of its shape (`Kind.network_arguments`), for images channels
    and resolution. n_classes: classes of the data, 0 = no labels; G gets them only if model.conditioning is not "none".
    The weights are drawn on the CPU from (seed, "init/generator"), inside torch.random.fork_rng, so that torch's own
    generator is neither read nor moved. Raises ConfigError for a class that cannot be imported or built.
    """
    kwargs: dict[str, Any] = {"latent_dim": model.latent_dim, **arguments}
    kwargs["n_classes"] = n_classes if model.conditioned_on(n_classes) != "none" else 0
    if model.generator is None:
        kwargs |= {"width": model.g_width, "norm": model.g_norm}
        if NETWORKS[model.name].upsamplings:
            kwargs["upsampling"] = model.g_upsampling
    return _build("generator", model, kwargs | model.g_args, stream_key(seed, "init/generator"))


def build_discriminator(model: ModelConfig, *, n_classes: int = 0, seed: int = 0, **arguments: Any) -> nn.Module:
    """D with D(x float (N, *shape), c int64 (N,) or None) -> logits (N,).

    With model.conditioning = "auxiliary" D returns (logits (N,), class_logits (N, n_classes)). D.features(x) gives the
    penultimate features (N, F). Arguments, weights and errors as for `build_generator`.
    """
    kwargs: dict[str, Any] = dict(arguments)
    kwargs["n_classes"] = n_classes if model.conditioned_on(n_classes) != "none" else 0
    if model.discriminator is None:
        kwargs |= {"width": model.d_width, "norm": model.d_norm, "conditioning": model.conditioned_on(n_classes)}
    if model.pretrained != "none":
        if not {"channels", "resolution"} <= set(arguments):
            raise ConfigError(
                f"model.pretrained = {model.pretrained!r}: it sees pictures, and the data are none; allowed here: none"
            )
        kwargs |= {"backbone": model.pretrained, "weights": model.pretrained_weights}
    return _build("discriminator", model, kwargs | model.d_args, stream_key(seed, "init/discriminator"))


def try_out(
    model: ModelConfig,
    *,
    shape: tuple[int, ...],
    value_range: tuple[float, float] = (-1.0, 1.0),
    n_classes: int = 0,
    **arguments: Any,
) -> None:
    """Give networks of own classes, or with arguments of the user's, three samples of a shape. Raises ConfigError for
    what comes of it.

    value_range: lowest and highest number in a sample. arguments: as for `build_generator`.
    """
    draw = torch.Generator().manual_seed(0)  # torch's own generator stays where it is
    n, size = 3, {"n_classes": n_classes, **arguments}
    samples = (n, *shape)
    c = torch.arange(n) % n_classes if model.conditioned_on(n_classes) != "none" else None
    if model.generator is not None or model.g_args:
        x = _try(
            "generator",
            model.generator,
            build_generator(model, **size),
            torch.randn(n, model.latent_dim, generator=draw),
            c,
        )
        _expect("generator", model.generator, x, samples, f"samples (N, {', '.join(map(str, shape))})")
        low, high = value_range
        slack = 1e-3 * (high - low) / 2
        if not bool(torch.isfinite(x).all()) or float(x.min()) < low - slack or float(x.max()) > high + slack:
            where, tanh = model.generator or model.name, "; end the network with tanh" if value_range == (-1, 1) else ""
            raise ConfigError(
                f"model.generator = {where!r}: samples from {float(x.min()):.3g} to {float(x.max()):.3g}; expected "
                f"finite values in [{low:g}, {high:g}]{tanh}"
            )
    if model.discriminator is not None or model.d_args or needs_trial(model):
        output = _try("discriminator", model.discriminator, build_discriminator(model, **size), torch.zeros(samples), c)
        if model.conditioning == "auxiliary":
            if not isinstance(output, tuple) or len(output) != 2:
                raise ConfigError(
                    f"model.discriminator = {model.discriminator!r}: returned a {type(output).__name__}; expected, for "
                    f"model.conditioning = 'auxiliary', a tuple (logits (N,), class logits (N, {n_classes}))"
                )
            output, class_logits = output
            _expect(
                "discriminator", model.discriminator, class_logits, (n, n_classes), f"class logits (N, {n_classes})"
            )
        _expect("discriminator", model.discriminator, output, (n,), "one logit a sample, (N,)")


def _build(kind: str, model: ModelConfig, kwargs: dict[str, Any], init_seed: int) -> nn.Module:
    path = getattr(model, kind)
    if path is None and kind == "discriminator" and model.pretrained != "none":
        cls = by_path(PROJECTED)
    elif path is None:
        cls = by_path(getattr(NETWORKS[model.name], kind))
    else:
        cls = _import(kind, path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init_seed)
        try:
            network = cls(**kwargs)
        except ConfigError:
            raise
        except Exception as error:
            own = model.g_args if kind == "generator" else model.d_args
            if path is None and not own:
                raise  # nothing of the user's is in there
            raise ConfigError(
                f"model.{kind} = {path or model.name!r}: "
                f"{cls.__name__}({', '.join(f'{k}={v!r}' for k, v in kwargs.items())}) failed with "
                f"{type(error).__name__}: {error}; check its signature and model.{kind[0]}_args"
            ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model.{kind} = {path!r}: made a {type(network).__name__}; expected a torch.nn.Module")
    return network


def _import(kind: str, path: str) -> Any:
    """The class at package.module:Class; the working folder counts, as it does for `python file.py`."""
    module_name, _, class_name = path.partition(":")
    try:
        return by_path(path)
    except Exception as error:
        module = sys.modules.get(module_name)
        if module is not None and not hasattr(module, class_name):
            networks = [
                n
                for n, v in vars(module).items()
                if isinstance(v, type) and issubclass(v, nn.Module) and v.__module__ == module_name
            ]
            raise ConfigError(
                f"model.{kind} = {path!r}: {module_name} has no {class_name}; it has "
                f"{', '.join(networks) or 'no networks'}"
            ) from None
        raise ConfigError(
            f"model.{kind} = {path!r}: cannot import {module_name} ({type(error).__name__}: {error}); "
            "it must be importable from the working folder or be installed, on every machine of the cluster"
        ) from error


def _try(kind: str, path: str | None, network: nn.Module, inputs: Tensor, c: Tensor | None) -> Any:
    call = "G(z (N, latent_dim), c)" if kind == "generator" else "D(x (N, *shape), c)"
    try:
        with torch.no_grad():
            return network(inputs, c)
    except Exception as error:
        given = f"{tuple(inputs.shape)} and {'c = None' if c is None else 'c int64 ' + str(tuple(c.shape))}"
        raise ConfigError(
            f"model.{kind} = {path!r}: failed on inputs {given} with {type(error).__name__}: {error}; expected: {call}"
        ) from error


def _expect(kind: str, path: str | None, output: Any, shape: tuple[int, ...], text: str) -> None:
    if not isinstance(output, Tensor) or tuple(output.shape) != shape or not output.is_floating_point():
        got = f"{output.dtype} {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ConfigError(f"model.{kind} = {path!r}: gave {got} for {shape[0]} samples; expected float {shape}: {text}")
