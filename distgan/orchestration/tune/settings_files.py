"""The settings of a search: as typed, as written down, and what a replay takes from one. No ray here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from distgan.config import ConfigError, RunConfig, TuneConfig, load_config, merge, read_yaml, validate
from distgan.config.renamed import RENAMED, modernise
from distgan.export.best_trial import SEARCH, WINNER
from distgan.storage import Folder
from distgan.text import command


def read_settings(file: str | None, search: str | None, overrides: Mapping[str, Any]) -> RunConfig:
    """The config of a new search: a --config file, a --search file over its tune section, and what was typed over
    both.
    """
    return search_config(read_yaml(file) if file else {}, read_space_file(search) if search else {}, overrides)


def search_config(base: Mapping[str, Any], tune: Mapping[str, Any], overrides: Mapping[str, Any]) -> RunConfig:
    """The config of a new search from nested settings, those of its tune section, and dotted ones over both."""
    config = load_config(overrides=overrides, base=merge(base, {"tune": tune}) if tune else base)
    # The name in a config is that of its run, which a search in the same storage must not be in the way of
    return config if overrides.get("name") else config.model_copy(update={"name": f"{config.run_name}-search"})


def read_space_file(file: str) -> dict[str, Any]:
    """The `tune` section in a --search file: its settings, and its space; what is no setting of tune belongs to the
    space.
    """
    try:
        values = read_yaml(file)
    except ConfigError as error:
        raise ConfigError(str(error).replace("--config", "--search", 1)) from None
    return space_section(values, f"--search {file}")


def space_section(values: Mapping[str, Any], said: str) -> dict[str, Any]:
    """The `tune` section that a search space and settings of tune beside it make. said: what a person gave them as."""
    for old, new in RENAMED.items():
        if old.startswith("tune.") and old.removeprefix("tune.") in values:
            raise ConfigError(f"{said}: {old.removeprefix('tune.')}: is {new.removeprefix('tune.')} now")
    space = values.get("space", {})
    if not isinstance(space, dict):
        raise ConfigError(f"{said}: space must map settings to distributions, not {space!r}")
    rest = {key: value for key, value in values.items() if key not in TuneConfig.model_fields}
    if not space and not rest and (not values or "space" in values):
        raise ConfigError(f"{said}: holds no space; write for example g_lr: {{loguniform: [5.0e-5, 1.0e-3]}}")
    return {
        **{key: value for key, value in values.items() if key in TuneConfig.model_fields},
        "space": {**rest, **space},
    }


def read_search(source: str, storage: str = "./runs") -> RunConfig:
    """The settings of a search, by its name, folder or URI. Raises ConfigError."""
    folder = find_search(source, storage)
    config = validate(modernise(yaml.safe_load(folder.read(SEARCH))))
    storage, name = folder.split()
    return config.model_copy(update={"storage": storage, "name": name})


def find_search(source: str, storage: str = "./runs") -> Folder:
    """The folder of a search, by its name, folder or URI. Raises ConfigError."""
    direct = Folder(source)
    folder = direct if direct.exists(SEARCH) or "://" in source else Folder(storage).child(source)
    if not folder.exists(SEARCH):
        raise ConfigError(
            f"{source}: no search there ({SEARCH} is missing); `ls {Folder(storage)}` shows what lies in the storage"
        )
    return folder


def read_replay(source: str, storage: str, name: str) -> tuple[RunConfig, list[dict[str, Any]]]:
    """The settings of a search and the schedule that its winner was trained with, to be run again as `name`. Raises
    ConfigError.
    """
    folder, config = find_search(source, storage), read_search(source, storage)
    if not folder.exists(WINNER):
        resume = command("distgan", "tune", "--resume", source)
        raise ConfigError(f"--replay {source}: has no winner yet; `{resume}` goes on with it")
    schedule = yaml.safe_load(folder.read(WINNER)).get("schedule")
    if not schedule:
        raise ConfigError(
            f"--replay {source}: its winner's values never changed; use "
            f"`{command('distgan', 'train', '--config', f'{folder}/best.yaml')}`"
        )
    if not name or name == config.run_name:
        raise ConfigError(f"--replay {source}: needs a --name of its own, for example --name {config.run_name}-replay")
    return config, schedule
