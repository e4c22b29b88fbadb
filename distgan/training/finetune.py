"""Fine-tuning: a new run begins with the weights of another one, all that fit, and with nothing else of it.

The counters, optimisers and schedules are a new run's. Layers are matched by what they work on (models/places.py). What
is made to fit:

    classes      rows of the same name are copied, a new class begins as the mean of the old ones: an average sample
                 lies among what the networks know, a random row far from it
    labels gone  the mean class's part goes into the bias of the layer that read it, if it has one, and into D's logit
    labels new   what reads them begins at 0, so that the networks begin as those without labels
    channels     grey to colour: each colour is the grey one, and D shares its weights among them; colour to grey: the
                 mean, in D the sum
    resolution   layers for the same sides are kept, those for sides that are new begin new
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distgan.config import ConfigError, ModelConfig, RunConfig
from distgan.models import build_discriminator, build_generator
from distgan.models.layers import Head, LatentInput
from distgan.models.places import IMAGE, LATENT, placed
from distgan.storage import Folder
from distgan.text import count, some_names
from distgan.training.checkpoint import CheckpointStore
from distgan.training.state import TrainState

TOLD = "finetuned.json"
"""File in a run's folder that tells what it began with."""

Weights = dict[str, Tensor]
Rows = Sequence[int | None]
"""Of each class the number of that class in the source, None where it is new."""


@dataclass(frozen=True)
class Source:
    """Networks to begin with."""

    name: str
    """Where they are from, as a person called it."""
    kimg: float
    model: ModelConfig
    """conditioning is decided."""
    kind: str
    """Of sample."""
    classes: tuple[str, ...]
    """Those that the networks get labels of; () = none."""
    arguments: dict[str, Any]
    """Of the networks' constructors, from `Kind.network_arguments`."""
    G: Weights
    averages: dict[float, Weights]
    """By half-life in kimg."""
    D: Weights | None
    """None in an exported generator."""


def first_state(
    config: RunConfig, classes: Sequence[str], arguments: dict[str, Any], source: Source
) -> tuple[dict[str, Any], str]:
    """(checkpoint 0 of a run that begins with the source's weights, what was taken and what begins new in words).

    classes: of the data; arguments: what a sample of it is. config.model.conditioning is decided. Raises ConfigError
    where the networks are too different.
    """
    classes = tuple(classes) if config.model.conditioning != "none" else ()
    _check_settings(config.model, source)
    state = TrainState(config, n_classes=len(classes), device=torch.device("cpu"), **arguments)
    _check_layers(state, classes, arguments, source)
    places = {name: number for number, name in enumerate(source.classes)}
    rows = [places.get(name) for name in classes]
    shape = {"n_classes": len(source.classes), **source.arguments}

    old_G = build_generator(source.model, **shape)
    taken = {"G": _fit(state.G, _loaded(old_G, source.G), rows, "G", source)}
    for half_life, average in zip(state.ema.half_lives_kimg, state.ema.modules, strict=True):
        nearest = min(source.averages, key=lambda known: abs(math.log((known + 1e-3) / (half_life + 1e-3))))
        _fit(average, _loaded(old_G, source.averages[nearest]), rows, "G", source)
    if source.D is not None:
        old_D = build_discriminator(source.model, **shape)
        taken["D"] = _fit(state.D, _loaded(old_D, source.D), rows, "D", source)
    _check_frozen(config, state.D, taken.get("D", set()), source)
    return state.state_dict(), _words(state, taken, classes, arguments, source)


def begin(folder: Folder, state: dict[str, Any], words: str) -> None:
    """Make what `first_state` gave the beginning of the run in `folder`. Raises OSError, RunError."""
    folder.write(TOLD, json.dumps({"event": words}))
    store = CheckpointStore(folder)
    store.save(0, state)
    store.wait()


def told(folder: Folder) -> list[str]:
    """What a run in `folder` began with, in words; [] if with random weights."""
    try:
        return [str(json.loads(folder.read(TOLD))["event"])]
    except (OSError, ValueError, KeyError, TypeError):
        return []


# ---------------------------------------------------------------------------------------------------------------------
# What can be fitted


def _check_settings(model: ModelConfig, source: Source) -> None:
    names = ["name", "generator", "latent_dim", "g_norm", "g_upsampling"]
    if source.D is not None:
        names += ["discriminator", "d_norm", "pretrained"]
    pairs = [(f"model.{name}", getattr(source.model, name), getattr(model, name)) for name in names]
    for player in "gd" if source.D is not None else "g":
        name = f"{player}_args"
        old, new = ({k: v for k, v in getattr(m, name).items() if k != "widths"} for m in (source.model, model))
        pairs.append((f"model.{name}", old, new))
    lines = [f"{name} = {new!r}: {source.name} has {old!r}" for name, old, new in pairs if old != new]
    if lines:
        raise ConfigError(
            "\n".join(lines)
            + f"\nfinetune = {source.name}: needs networks of the same family; without these settings they are the "
            "source's"
        )


def _check_layers(state: TrainState, classes: Sequence[str], arguments: dict[str, Any], source: Source) -> None:
    """Refuse other samples where the networks do not say which of their layers depend on them."""
    networks = [state.G] if source.D is None else [state.G, state.D]
    silent = [network for network in networks if not hasattr(network, "places")]
    if silent and (tuple(classes), arguments) != (source.classes, source.arguments):
        raise ConfigError(
            f"finetune = {source.name}: {type(silent[0]).__name__} is made for {source.arguments} and "
            f"{len(source.classes)} classes (here {arguments} and {len(classes)}); allowed: the same, as it does not "
            "say which of its layers depend on them (a method places(), see distgan/models/places.py)"
        )


def _check_frozen(config: RunConfig, D: nn.Module, taken: set[str], source: Source) -> None:
    new = [name for name, p in D.named_parameters() if not p.requires_grad and name not in taken]
    if new:
        why = f"{source.name} has no discriminator" if source.D is None else f"{new[0]} is not in {source.name}"
        raise ConfigError(
            f"training.freeze_d = {config.training.freeze_d}: {why}, and layers that begin new cannot stay as they "
            "are; allowed: 0, or a source with all of these layers (a run, at the same data.resolution)"
        )


def _check_places(name: str, new: nn.Module, taken: set[str], source: Source) -> None:
    ends = {n for n, (place, _) in placed(new).items() if place.startswith(LATENT) or n.startswith("head.logit")}
    if not {n for n in ends if not _iterates(n)} <= taken:
        raise ConfigError(
            f"data.resolution: the layers of {name} that {source.name} has (for {source.arguments.get('resolution')} "
            "pixels) are for other sides than those of this run; allowed: its resolution, or that times 2, 4, ..."
        )


# ---------------------------------------------------------------------------------------------------------------------
# One network


def _loaded(network: nn.Module, weights: Weights) -> nn.Module:
    network.load_state_dict(weights)
    return network.eval()  # spectral norms do not iterate


@torch.no_grad()
def _fit(new: nn.Module, old: nn.Module, rows: Rows, name: str, source: Source) -> set[str]:
    """Give the new network what fits of the old one; returns the names of the weights that it got."""
    found = dict(zip(placed(old).values(), old.state_dict().values(), strict=True))
    taken: set[str] = set()
    others: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
    weights, own = new.state_dict(), not hasattr(new, "places")
    for weight, (place, leaf) in placed(new).items():
        given, target = found.get((place, leaf)), weights[weight]
        if given is None:
            given = _from_norm(place, leaf, found, len(target))
        elif _of_classes(new, weight) and not own:
            given = _class_rows(given, rows)
        elif place.split(" ")[0] == LATENT and leaf == "weight":
            given = _latent_columns(given, target.shape[1])
        elif place.split(" ")[0] == IMAGE:
            given = _image_channels(given, target, _layer(new, weight), int(place.split(" ")[1]), makes=name == "G")
        if given is None or _iterates(weight):
            continue
        if given.shape != target.shape:
            others.append((weight, tuple(given.shape), tuple(target.shape)))
            continue
        target.copy_(given)
        taken.add(weight)
    if others:
        weight, before, now = others[0]
        raise ConfigError(
            f"model.{name.lower()}_width: {len(others)} layers of {name} are of another width than in {source.name} "
            f"(the first, {weight}: {before} there, {now} here); allowed: its width, which is taken where none is given"
        )
    _check_places(name, new, taken, source)
    _fold_input(new, old)
    _fold_head(new, old)
    _settle_spectral_norms(new, found)
    return taken


def _of_classes(network: nn.Module, weight: str) -> bool:
    """Whether its rows are classes."""
    return isinstance(_layer(network, weight), nn.Embedding) or ".classify." in f".{weight}"


def _layer(network: nn.Module, weight: str) -> nn.Module:
    """The layer that a weight belongs to."""
    path, parametrized, _ = weight.partition(".parametrizations.")
    return network.get_submodule(path if parametrized else weight.rpartition(".")[0])


def _class_rows(given: Tensor, rows: Rows) -> Tensor:
    """(K_old, ...) -> (K_new, ...)"""
    mean = given.mean(0)
    return torch.stack([mean if row is None else given[row] for row in rows])


def _latent_columns(given: Tensor, columns: int) -> Tensor:
    """(outputs, z) or (outputs, z + embed) -> (outputs, columns), with 0 for an embedding that is new."""
    if given.shape[1] >= columns:
        return given[:, :columns]
    return torch.cat([given, given.new_zeros(len(given), columns - given.shape[1])], 1)


def _image_channels(given: Tensor, target: Tensor, layer: nn.Module, side: int, *, makes: bool) -> Tensor:
    """The weight or bias of a layer that makes images of this side or reads them, for images of as many channels as the
    target's.
    """
    if given.ndim == 1 and not makes:
        return given
    dim = 1 if given.ndim > 1 and (not makes or isinstance(layer, nn.ConvTranspose2d)) else 0
    if given.shape[dim] == target.shape[dim]:
        return given
    pixels = side**2 if isinstance(layer, nn.Linear) else 1  # a channel's pixels lie side by side
    wanted = target.shape[dim] // pixels
    by_channel: Tensor = given.unflatten(dim, (-1, pixels))  # type: ignore[no-untyped-call]
    share = 1.0 if makes else by_channel.shape[dim] / wanted
    mean = by_channel.mean(dim, keepdim=True) * share
    return mean.repeat_interleave(wanted, dim).flatten(dim, dim + 1)


def _from_norm(place: str, leaf: str, found: dict[tuple[str, str], Tensor], classes: int) -> Tensor | None:
    """Scale and shift of a normalisation, where they come from the class in one network and not in the other."""
    for plain, by_class in (("norm.weight", "scale.weight"), ("norm.bias", "shift.weight")):
        if leaf.endswith(plain) and (rows := found.get((place, leaf.removesuffix(plain) + by_class))) is not None:
            return rows.mean(0)
        if leaf.endswith(by_class) and (row := found.get((place, leaf.removesuffix(by_class) + plain))) is not None:
            return row.expand(classes, -1)
    return None


def _fold_input(new: nn.Module, old: nn.Module) -> None:
    """Labels gone: the mean class's part of the first layer goes into its bias."""
    before, now = getattr(old, "input", None), getattr(new, "input", None)
    if not isinstance(before, LatentInput) or not isinstance(now, LatentInput):
        return
    if before.embed is None or now.embed is not None:
        return
    was, is_now = (_latent_layer(network) for network in (old, new))
    if is_now.bias is not None:
        size = before.embed.embedding_dim
        is_now.bias.add_(was.weight[:, -size:] @ before.embed.weight.mean(0))


def _latent_layer(network: nn.Module) -> nn.Linear:
    layers = (_layer(network, name) for name, (place, _) in placed(network).items() if place.startswith(LATENT))
    return next(layer for layer in layers if isinstance(layer, nn.Linear))


def _fold_head(new: nn.Module, old: nn.Module) -> None:
    """Labels gone: D's logit gets the mean class's part. Labels new: they begin without a part."""
    before, now = getattr(old, "head", None), getattr(new, "head", None)
    if not isinstance(before, Head) or not isinstance(now, Head):
        return
    weights = now.state_dict()
    if before.embed is not None and now.embed is None:
        row = before.logit.weight + before.embed.weight.mean(0)
        for name in ("logit.weight", "logit.parametrizations.weight.original"):
            if name in weights:
                weights[name].copy_(row)
    elif before.embed is None and now.embed is not None and "embed.weight" in weights:
        weights["embed.weight"].zero_()  # spectral normalisation would divide 0 by 0: there they begin at random


def _iterates(weight: str) -> bool:
    """Whether it is one of the vectors of a spectral norm, which follow from the weight."""
    return ".parametrizations." in weight and not weight.endswith(".original")


def _settle_spectral_norms(new: nn.Module, found: dict[tuple[str, str], Tensor]) -> None:
    """Spectral norms know the singular vectors of a weight as it was; where it has changed they are computed anew."""
    weights, places = new.state_dict(), placed(new)
    for name, weight in weights.items():
        if not name.endswith(".parametrizations.weight.original"):
            continue
        vectors = [n for n in weights if _iterates(n) and n.startswith(name.removesuffix("original"))]
        given = found.get(places[name])
        if given is not None and given.shape == weight.shape and torch.equal(given, weight):
            for vector in vectors:
                weights[vector].copy_(found[places[vector]])
            continue
        u, _, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        for vector in vectors:
            weights[vector].copy_(u[:, 0] if vector.endswith("_u") else v[0])


# ---------------------------------------------------------------------------------------------------------------------
# In words


def _words(
    state: TrainState, taken: dict[str, set[str]], classes: Sequence[str], arguments: dict[str, Any], source: Source
) -> str:
    parts = []
    if source.D is None:
        parts.append("without a discriminator, which begins new")
    if classes and source.classes:
        new = [name for name in classes if name not in source.classes]
        mean = f" ({some_names(new, 3)} as the mean of its {len(source.classes)})" if new else ""
        parts.append(f"{len(classes) - len(new)} of {len(classes)} classes by name{mean}")
    elif classes or source.classes:
        parts.append("labels added" if classes else "labels dropped")
    for name in ("channels", "resolution"):
        old, new_value = source.arguments.get(name), arguments.get(name)
        if old != new_value:
            parts.append(f"{name} {old} -> {new_value}")
    fresh = {player: len(_new_layers(getattr(state, player), names)) for player, names in taken.items()}
    if any(fresh.values()):
        counts = [f"{count(number, 'layer')} of {player}" for player, number in fresh.items() if number]
        parts.append(f"{' and '.join(counts)} new")
    return f"fine-tuning from {source.name} at {source.kimg:g} kimg: {', '.join(parts) or 'all weights'}"


def _new_layers(network: nn.Module, taken: set[str]) -> set[str]:
    """Numbered or named layers that got nothing."""
    layers: dict[str, bool] = {}
    for name, (place, _) in placed(network).items():
        head, *rest = name.split(".")
        layer = f"{head}.{rest[0]}" if rest and rest[0].isdigit() else head
        if place and not layer.startswith("norm"):
            layers[layer] = layers.get(layer, False) or name in taken
    return {layer for layer, got in layers.items() if not got}
