"""Help about settings: those that people change first, a section, one setting, or all."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from distgan.config.base import ConfigError
from distgan.config.reading import allowed_text, find_field, get_dotted, walk_fields
from distgan.config.settings import RunConfig
from distgan.text import did_you_mean

FIRST = (
    "data.name",
    "data.resolution",
    "data.mirror",
    "name",
    "storage",
    "kimg",
    "minutes",
    "seed",
    "workers",
    "batch_size",
    "finetune",
    "model.name",
    "model.pretrained",
    "loss.name",
    "loss.r1_gamma",
    "optim.g.lr",
    "optim.d.lr",
    "augment.kind",
    "metrics.names",
    "checkpoint.every_kimg",
)
"""What people change first."""
GENERAL = "run"
"""The name of the settings at the top, which are in no section."""


def settings_help(topic: str, used: RunConfig, stated: RunConfig, command: str = "train") -> str:
    """The settings of a topic with default, unit, what is allowed and meaning.

    topic: "" for those that people change first and the names of the sections, a section, a setting, or "all". used:
    what the command would run with, whose values are the defaults shown; stated: the same without what a recipe of the
    data changed. Raises ConfigError for a topic that is none.
    """
    fields = dict(walk_fields())
    key = topic.removeprefix("--").replace("-", "_")
    if key == "":
        first = [*FIRST, *(name for name in fields if command == "tune" and name.startswith("tune."))]
        sections = "\n".join(f"  {name:<12} {meaning}" for name, meaning in _sections().items())
        how = f"distgan {command} --help SECTION, --help SETTING or --help all"
        return (
            f"The settings that people change first (in a YAML file: in sections; the command line wins over it):\n\n"
            f"{_listed(((name, fields[name]) for name in first), used, stated)}\n\n"
            f"The others, by section ({how}):\n\n{sections}"
        )
    chosen = [
        name
        for name in fields
        if key in ("all", name) or name.startswith(f"{key}.") or (key == GENERAL and "." not in name)
    ]
    if not chosen:
        near = did_you_mean(key, [*fields, *_sections()])
        allowed = ", ".join([*_sections(), "all"])
        raise ConfigError(f"--help {topic}: no such section or setting; allowed: {allowed}, or a setting's name{near}")
    out, section = [], None
    for name in chosen:
        head = name.rpartition(".")[0] or GENERAL
        if head != section:
            section = head
            out.append(f"\n{head}")
        out.append(_listed([(name, fields[name])], used, stated))
    return "\n".join(out).strip("\n")


def _sections() -> dict[str, str]:
    """The sections with what they are about."""
    tops = dict.fromkeys(name.partition(".")[0] for name, _ in walk_fields() if "." in name)
    infos = {name: find_field(name) for name in tops}
    return {GENERAL: "what is in no section"} | {n: i.description or "" for n, i in infos.items() if i is not None}


def _listed(settings: Iterable[tuple[str, FieldInfo]], used: RunConfig, stated: RunConfig) -> str:
    return "\n".join(_one(name, info, used, stated) for name, info in settings)


def _one(name: str, info: FieldInfo, used: RunConfig, stated: RunConfig) -> str:
    extra = info.json_schema_extra
    unit = str(extra["unit"]) if isinstance(extra, dict) and "unit" in extra else ""
    shown, elsewhere = (_in_words(get_dotted(config, name), unit) for config in (used, stated))
    if shown != elsewhere:
        shown += f" on {used.data.name}, by its recipe, {elsewhere} on other data"
    text = f"{info.description}  [default: {shown}; allowed: {allowed_text(info)}]"
    return textwrap.fill(text, 118, initial_indent=f"  --{name.replace('_', '-'):<34} ", subsequent_indent=" " * 39)


def _in_words(default: Any, unit: str) -> str:
    """A default as it is typed."""
    if default is None:
        return "none"
    text = yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"{text} {unit}".strip()
