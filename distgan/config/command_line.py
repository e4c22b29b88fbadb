"""Settings on a command line: reading them, and the help that lists them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import yaml

from distgan.config.base import ConfigError
from distgan.config.reading import allowed_text, find_field, get_dotted, load_config, walk_fields
from distgan.config.settings import RunConfig


def parse_overrides(arguments: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """(config file, settings by dotted name) from `--key value`, `--key=value`, `--key a b` (a list) and `--flag`
    (true).
    """
    file: str | None = None
    values: dict[str, Any] = {}
    position = 0
    while position < len(arguments):
        word = arguments[position]
        position += 1
        if not word.startswith("--") or word == "--":
            raise ConfigError(f"{word}: settings are typed as --name value, for example --kimg 100")
        key, equals, value = word[2:].partition("=")
        words = [value] if equals else []
        while not equals and position < len(arguments) and not arguments[position].startswith("--"):
            words.append(arguments[position])
            position += 1
        if key == "config":
            if len(words) != 1:
                raise ConfigError("--config: needs one FILE.yaml")
            file = words[0]
        elif key.replace("-", "_") in values:
            raise ConfigError(f"--{key}: given twice")
        elif len(words) > 1 and not _takes_several(key.replace("-", "_")):
            raise ConfigError(f"--{key}: takes one value, not {' '.join(words)!r}; settings are typed as --name value")
        elif not words and not _is_flag(key.replace("-", "_")):
            raise ConfigError(
                f"--{key}: needs a value, as in --{key} VALUE; `distgan train --help` says which are allowed"
            )
        else:
            values[key.replace("-", "_")] = (
                "true" if not words else words[0] if len(words) == 1 else f"[{', '.join(words)}]"
            )
    return file, values


def _takes_several(name: str) -> bool:
    """False where a list would be taken for text: `--storage PATH kimg=1` must not make a folder of that name."""
    info = find_field(name)
    return info is None or any(word in str(info.annotation) for word in ("list", "dict", "Any"))


def _is_flag(name: str) -> bool:
    """Whether a setting may be typed without a value, which then is true. What is no setting is refused for that,
    later.
    """
    info = find_field(name)
    return info is None or "bool" in str(info.annotation)


def print_settings(usage: str, used: RunConfig) -> None:
    """Every setting with default, unit, what is allowed and meaning, section by section. used: what a command without
    settings runs with, which a recipe of its data may have changed.
    """
    defaults = load_config()
    print(f"{usage}\n\nSettings (in YAML: sections; here: dotted names; the command line wins over the file):")
    section = None
    for name, info in walk_fields():
        head = name.rpartition(".")[0]
        if head != section:
            section = head
            print(f"\n{head or 'run'}")
        extra = info.json_schema_extra
        unit = str(extra["unit"]) if isinstance(extra, dict) and "unit" in extra else ""
        shown, general = (_in_words(get_dotted(config, name), unit) for config in (used, defaults))
        if shown != general:
            shown += f" on {used.data.name}, by its recipe, {general} on other data"
        text = f"{info.description}  [default: {shown}; allowed: {allowed_text(info)}]"
        print(textwrap.fill(text, 118, initial_indent=f"  --{name.replace('_', '-'):<34} ", subsequent_indent=" " * 39))


def _in_words(default: Any, unit: str) -> str:
    """A default as it is typed."""
    if default is None:
        return "none"
    text = yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"{text} {unit}".strip()
