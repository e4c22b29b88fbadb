"""From a `ModelConfig` to two networks, with weights that follow from a seed, so that all workers build the same."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import torch
from torch import Tensor, nn

from distgan.config import ConfigError, ModelConfig
from distgan.randomness import stream_key

_CLASSES = {  # family -> module, generator, discriminator
    "mlp": ("distgan.models.mlp", "MLPGenerator", "MLPDiscriminator"),
    "dcgan": ("distgan.models.dcgan", "DCGANGenerator", "DCGANDiscriminator"),
    "resnet": ("distgan.models.resnet", "ResNetGenerator", "ResNetDiscriminator"),
    "r3gan": ("distgan.models.r3gan", "R3GANGenerator", "R3GANDiscriminator"),
}


def build_generator(
    model: ModelConfig, *, channels: int, resolution: int, n_classes: int = 0, seed: int = 0
) -> nn.Module:
    """G with G(z float (N, latent_dim), c int64 (N,) or None) -> x float (N, channels, resolution, resolution) in [-1,
    1].

    n_classes: classes of the data, 0 = no labels; G gets them only if model.conditioning is not "none". The weights are
    drawn on the CPU from (seed, "init/generator"), inside torch.random.fork_rng, so that torch's own generator is
    neither read nor moved. Raises ConfigError for a class that cannot be imported or built.
    """
    kwargs: dict[str, Any] = {"latent_dim": model.latent_dim, "channels": channels, "resolution": resolution}
    kwargs["n_classes"] = n_classes if model.conditioned_on(n_classes) != "none" else 0
    if model.generator is None:
        kwargs |= {"width": model.g_width, "norm": model.g_norm}
    return _build("generator", model, kwargs | model.g_args, stream_key(seed, "init/generator"))


def build_discriminator(
    model: ModelConfig, *, channels: int, resolution: int, n_classes: int = 0, seed: int = 0
) -> nn.Module:
    """D with D(x float (N, channels, resolution, resolution), c int64 (N,) or None) -> logits (N,).

    With model.conditioning = "auxiliary" D returns (logits (N,), class_logits (N, n_classes)). D.features(x) gives the
    penultimate features (N, F). Weights and errors as for `build_generator`.
    """
    kwargs: dict[str, Any] = {"channels": channels, "resolution": resolution}
    kwargs["n_classes"] = n_classes if model.conditioned_on(n_classes) != "none" else 0
    if model.discriminator is None:
        kwargs |= {"width": model.d_width, "norm": model.d_norm, "conditioning": model.conditioned_on(n_classes)}
    return _build("discriminator", model, kwargs | model.d_args, stream_key(seed, "init/discriminator"))


def try_out(model: ModelConfig, *, channels: int, resolution: int, n_classes: int = 0) -> None:
    """Give networks of own classes, or with arguments of the user's, three samples. Raises ConfigError for what comes
    of it.
    """
    draw = torch.Generator().manual_seed(0)  # torch's own generator stays where it is
    n, size = 3, {"channels": channels, "resolution": resolution, "n_classes": n_classes}
    c = torch.arange(n) % n_classes if model.conditioned_on(n_classes) != "none" else None
    image = (n, channels, resolution, resolution)
    if model.generator is not None or model.g_args:
        x = _try(
            "generator",
            model.generator,
            build_generator(model, **size),
            torch.randn(n, model.latent_dim, generator=draw),
            c,
        )
        _expect("generator", model.generator, x, image, f"images (N, {channels}, {resolution}, {resolution})")
        if not bool(torch.isfinite(x).all()) or float(x.abs().max()) > 1 + 1e-3:
            where = model.generator or model.name
            raise ConfigError(
                f"model.generator = {where!r}: images from {float(x.min()):.3g} to {float(x.max()):.3g}; expected "
                "finite values in [-1, 1]; end the network with tanh"
            )
    if model.discriminator is not None or model.d_args:
        output = _try("discriminator", model.discriminator, build_discriminator(model, **size), torch.zeros(image), c)
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
        _expect("discriminator", model.discriminator, output, (n,), "one logit an image, (N,)")


def _build(kind: str, model: ModelConfig, kwargs: dict[str, Any], init_seed: int) -> nn.Module:
    path = getattr(model, kind)
    if path is None:
        module, *names = _CLASSES[model.name]
        cls = getattr(importlib.import_module(module), names[kind == "discriminator"])
    else:
        cls = _import(kind, path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init_seed)
        try:
            network = cls(**kwargs)
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
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"model.{kind} = {path!r}: cannot import {module_name} ({type(error).__name__}: {error}); "
            "it must be importable from the working folder or be installed, on every machine of the cluster"
        ) from error
    if not hasattr(module, class_name):
        classes = [
            n
            for n, v in vars(module).items()
            if isinstance(v, type) and issubclass(v, nn.Module) and v.__module__ == module_name
        ]
        raise ConfigError(
            f"model.{kind} = {path!r}: {module_name} has no {class_name}; it has {', '.join(classes) or 'no networks'}"
        )
    return getattr(module, class_name)


def _try(kind: str, path: str | None, network: nn.Module, inputs: Tensor, c: Tensor | None) -> Any:
    call = "G(z (N, latent_dim), c)" if kind == "generator" else "D(x (N, C, H, W), c)"
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
