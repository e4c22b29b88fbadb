"""Settings as Python gives them, to a checked `RunConfig`: a file or mapping, and keyword arguments over it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from distgan.config.base import ConfigError
from distgan.config.reading import find_field, from_text, load_config, read_yaml, set_dotted
from distgan.config.settings import RunConfig

Config = str | os.PathLike[str] | Mapping[str, Any] | RunConfig | None
"""What the Python interface takes for a run description: a YAML file, a mapping, a RunConfig, or None."""


def config_from(config: Config, settings: Mapping[str, Any]) -> RunConfig:
    """The run description of `config` with `settings` over it. Raises ConfigError with one line a mistake.

    Mappings may be nested by section ({"optim": {"g": {"lr": 1e-4}}}), have dotted names ({"optim.g.lr": 1e-4}), or
    both. A section that has a name may be given as that: data="./photos" is data.name, loss="hinge" is loss.name.
    """
    with in_words_of_python():
        return load_config(overrides=flat(settings), base=nested(config))


def nested(config: Config) -> dict[str, Any]:
    """A run description as a nested dict of what it says, unchecked but for its form. Raises ConfigError."""
    if config is None:
        return {}
    if isinstance(config, RunConfig):
        return config.model_dump(mode="json", exclude_unset=True)
    if isinstance(config, Mapping):
        values: dict[str, Any] = {}
        for name, value in flat(config).items():
            set_dotted(values, name, from_text(value, find_field(name)))
        return values
    if not isinstance(config, str | os.PathLike):
        raise ConfigError(
            f"config = {config!r}: allowed: the path of a YAML file, a mapping of settings, or a RunConfig; other "
            'settings are keyword arguments, like data="./photos"'
        )
    path = Path(os.path.expanduser(config))
    if path.is_dir() or path.suffix.lower() in (".zip", ".npy", ".npz"):
        raise ConfigError(
            f"config = {str(config)!r}: is no YAML file of settings; data={str(config)!r} takes it for samples"
        )
    return read_yaml(path)


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings by dotted name; mappings that are values of a setting stay as they are."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{above}{key}"
        info = find_field(name)
        section = info.annotation if info is not None else None
        is_section = isinstance(section, type) and issubclass(section, BaseModel)
        if isinstance(value, BaseModel):
            value = value.model_dump(mode="json", exclude_unset=True)
        unknown = find_field(name.partition(".")[0]) is None  # what is wrong is told of each setting in it
        if (is_section or unknown) and isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        elif is_section and isinstance(value, str | os.PathLike) and find_field(f"{name}.name") is not None:
            found[f"{name}.name"] = _plain(value)
        else:
            found[name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    """Paths as text, and numbers of NumPy and torch as Python's."""
    if isinstance(value, os.PathLike):  # Path("mnist") is a path, and "mnist" a known set
        path = str(Path(value))
        return path if os.sep in path else f".{os.sep}{path}"
    if isinstance(value, tuple):
        return list(value)
    scalar = getattr(value, "item", None)
    return scalar() if callable(scalar) and getattr(value, "ndim", 1) == 0 else value


@contextmanager
def in_words_of_python() -> Iterator[None]:
    """Inside, a ConfigError names settings and arguments as Python does, without the dashes of the command line."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(re.sub(r"(?m)^-{1,2}(?=[a-z])", "", str(error))) from None
