"""With whose weights a run begins (`finetune`): finding them, the settings that follow from them, and checkpoint 0.

The weights are copied into the run's folder before any worker starts. From then on the run needs its source no more.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from distgan.config import ConfigError, ModelConfig, RunConfig
from distgan.export.best_trial import SEARCH, WINNER
from distgan.kinds import SampleSpec, get_kind
from distgan.storage import Folder
from distgan.training.checkpoint import CHECKPOINTS, CheckpointStore
from distgan.training.identity import DATA

if TYPE_CHECKING:
    from distgan.training.finetune import Source

INHERITED = (
    *("name", "generator", "discriminator", "pretrained", "pretrained_weights"),
    *("latent_dim", "latent", "g_width", "d_width", "g_norm", "d_norm", "g_upsampling"),
)
COPY = "finetune"
"""Folder in a search's folder with the weights that its trials begin with."""


def find_source(source: str, storage: str) -> tuple[Folder, Folder]:
    """(the place that `finetune` names, the folder of its weights): a run, a trial (NAME/trials/007), a search (NAME),
    whose winner is meant, or an exported generator. A name in `storage` wins over a path. Raises ConfigError.
    """
    plain = source.removesuffix("/generator.json").removesuffix("/generator.safetensors")
    for folder in _candidates(plain, storage):
        if folder.exists(WINNER):
            return folder, folder.child(str(yaml.safe_load(folder.read(WINNER))["folder"]))
        if CheckpointStore(folder).names() or folder.exists("generator.json"):
            return folder, folder
        if folder.exists("generator/generator.json"):
            return folder, folder.child("generator")
        if folder.exists(SEARCH):
            raise ConfigError(f"finetune = {source}: this search has no winner yet; allowed: one of its trials")
    looked = ", ".join(map(str, _candidates(plain, storage)))
    raise ConfigError(
        f"finetune = {source}: no weights there (looked for checkpoints, generator.json and winner.yaml in {looked}); "
        "allowed: a run, a trial like NAME/trials/007, a search with a winner, or the folder of a generator"
    )


def same_source(before: str | None, now: str | None, storage: str) -> bool:
    """Whether two values of `finetune` mean the same place. It need not be there any more."""
    if before is None or now is None:
        return before == now
    return before == now or before in [folder.uri for folder in _candidates(now, storage)]


def inherited(
    config: RunConfig, before: RunConfig | None, copy: Folder | None = None
) -> tuple[RunConfig, Source | None]:
    """(the run with its source's networks and resolution where nothing else was given, the Source or None).

    before: the same run, or search, as it was begun: its settings are taken then, and no source is needed. copy: a
    search's own copy of the source. Raises ConfigError.
    """
    name = config.finetune
    if name is None:
        return config, None
    if before is not None:
        if not same_source(before.finetune, name, config.storage):
            return config, None  # another run, which will be said of it
        config = config.model_copy(update={"finetune": before.finetune})
        source = None
        if copy is not None and before.finetune is not None:
            place = copy if _is_whole(copy) else find_source(before.finetune, config.storage)[1]
            source = read_source(place, before.finetune)
        return _with_networks(config, before.model, before.data.resolution), source
    named, folder = find_source(name, config.storage)
    source = read_source(folder, name)
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a job's working folder has a new name each time
        config = config.model_copy(update={"finetune": named.uri})
    found = _with_networks(config, source.model, source.arguments.get("resolution"))
    return _with_widths(found, config, source), source


def check_source(config: RunConfig, spec: SampleSpec, source: Source) -> tuple[dict[str, Any], str]:
    """What `training.finetune.first_state` gives for these data. Raises ConfigError where the weights do not fit."""
    from distgan.training.finetune import first_state

    kind = get_kind(config.data)
    if source.kind != kind.name:
        raise ConfigError(
            f"finetune = {source.name}: makes samples of the kind {source.kind}, and {spec.name} is of the kind "
            f"{kind.name}; allowed: a source of the same kind"
        )
    classes = spec.classes if config.data.labels else ()
    return first_state(config, classes, kind.network_arguments(spec), source)


def read_source(folder: Folder, name: str) -> Source:
    """The newest intact checkpoint of a run, or an exported generator. name: what a person calls it. Raises
    ConfigError.
    """
    from distgan.training.finetune import Source

    if not CheckpointStore(folder).names():
        from distgan.export.generator import load_generator

        made = load_generator(folder)
        weights = made.G.state_dict()
        classes = made.classes if made.conditional else ()
        arguments = made.kind.network_arguments(made.spec)
        kimg = float(made.info.get("kimg", 0))
        model = made.model.model_copy(update={"conditioning": made.model.conditioned_on(len(classes))})
        return Source(name, kimg, model, made.kind.name, classes, arguments, weights, {0.0: weights}, None)
    from distgan.runs.prepare import read_run_config

    config, data = read_run_config(folder), _read_data(folder, name)
    found = CheckpointStore(folder).newest()
    if found is None:
        raise ConfigError(f"finetune = {name}: no checkpoint in {folder} is intact")
    nimg, state = found
    averages: dict[float, dict[str, Any]] = {}
    for key, tensor in state["ema"].items():
        half_life, _, weight = key.partition("/")
        averages.setdefault(float(half_life), {})[weight] = tensor
    kind = get_kind(config.data)
    spec = SampleSpec(data["name"], tuple(data["shape"]), (-1.0, 1.0), tuple(data["classes"]))
    conditioning = config.model.conditioned_on(spec.n_classes)
    model = config.model.model_copy(update={"conditioning": conditioning})
    classes = spec.classes if conditioning != "none" else ()
    arguments = kind.network_arguments(spec)
    return Source(name, nimg / 1000, model, kind.name, classes, arguments, state["G"], averages, state["D"])


def copy_source(source: Source, config: RunConfig, target: Folder) -> None:
    """Keep a source for the trials of a search, which begin at other times and on other machines."""
    if _is_whole(target):
        return
    folder = find_source(source.name, config.storage)[1]
    if source.D is None:
        files = ["generator.safetensors", "generator.json"]
    else:
        place = f"{CHECKPOINTS}/{round(source.kimg * 1000):012d}"
        files = [f"{place}/state.pt", f"{place}/manifest.json", *_described(folder), "config.yaml"]
    for file in files:  # the last one says that it is whole
        target.write(file, folder.read(file))


def _is_whole(copy: Folder) -> bool:
    return copy.exists("config.yaml") or copy.exists("generator.json")


def _candidates(source: str, storage: str) -> list[Folder]:
    """Where a source may lie."""
    if "://" in source or source.startswith(("/", "~")):
        return [Folder(source)]
    return [Folder(storage).child(str(Path(source))), Folder(source)]


def _described(folder: Folder) -> list[str]:
    return [file for file in (DATA, "generator/generator.json") if folder.exists(file)]


def _read_data(folder: Folder, name: str) -> dict[str, Any]:
    """What a run's samples are: {name, shape, classes}."""
    for file in _described(folder):
        try:
            found = json.loads(folder.read(file))
            return dict(found if file == DATA else found["spec"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    raise ConfigError(
        f"finetune = {name}: {folder} does not say which classes its samples have ({DATA} is missing); "
        "its exported generator does"
    )


# ---------------------------------------------------------------------------------------------------------------------
# Settings that follow from the source


def _with_networks(config: RunConfig, model: ModelConfig, resolution: Any) -> RunConfig:
    given = config.model.model_fields_set
    names = [*INHERITED, "g_args", "d_args"]
    change = {name: getattr(model, name) for name in names if name not in given}
    if isinstance(resolution, tuple):
        resolution = "x".join(map(str, resolution))
    if config.data.resolution is None and resolution is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"resolution": resolution})})
    if model.conditioning == "auxiliary" and "conditioning" not in given and config.data.labels:
        classes = get_kind(config.data).describe(config.data).n_classes
        change["conditioning"] = "auxiliary" if classes > 1 else "auto"
    return config.model_copy(update={"model": config.model.model_copy(update=change)})


def _with_widths(config: RunConfig, typed: RunConfig, source: Source) -> RunConfig:
    """The channels of each side as they are in the source, where the resolution is another one: else the same width
    would mean other channels for the same side.
    """
    old, new = source.arguments.get("resolution"), config.data.resolution
    if not isinstance(old, int) or not isinstance(new, int) or old == new or config.model.name != source.model.name:
        return config
    from distgan.models import build_discriminator, build_generator

    change = {}
    shape = {"n_classes": len(source.classes), **source.arguments}
    for player, build in (("g", build_generator), ("d", build_discriminator)):
        widths = getattr(build(source.model, **shape), "widths", None)
        if widths is None or f"{player}_args" in typed.model.model_fields_set:
            continue
        count = len(widths) + (new.bit_length() - old.bit_length())
        more = [getattr(config.model, f"{player}_width")] * (count - len(widths))
        change[f"{player}_args"] = getattr(config.model, f"{player}_args") | {"widths": [*widths, *more][:count]}
    return config.model_copy(update={"model": config.model.model_copy(update=change)})
