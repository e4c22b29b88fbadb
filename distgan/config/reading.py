"""From a YAML file and dotted overrides to a checked `RunConfig`, and from what is wrong to one line for a person.

There is one path, `load_config`, so that a typo or a value out of range reads the same wherever it was written, and is
refused before any worker starts.
"""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from distgan.config.base import ConfigError, OneOf, Sides
from distgan.config.renamed import hint
from distgan.config.settings import RunConfig
from distgan.config.synonyms import answer, meant, value_answer
from distgan.text import did_you_mean, nearest, suggest

RECIPES = Path(__file__).parent / "recipes"
"""The folder of the configs that ship."""
_OPEN = (
    "tune.space.",
    "model.g_args.",
    "model.d_args.",
    *(f"training.{key}" for key in ("batch_size", "kimg", "seed", "workers")),
)
"""Beginnings of dotted names that are no fields: free mappings, and the top-level settings' other names."""


def load_config(
    file: str | Path | None = None, overrides: Mapping[str, Any] | None = None, base: Mapping[str, Any] | None = None
) -> RunConfig:
    """The run description from `base` (a nested dict), a YAML file over it, and dotted overrides over both.

    Override values may be strings as typed on a command line ("1e-4", "[1, 2]", "null"). Raises ConfigError with one
    line a mistake: setting, value, what is allowed, nearest right name.
    """
    values: dict[str, Any] = dict(base or {})
    if file is not None:
        values = merge(values, read_yaml(file))
    problems: list[str] = []
    given = {key.strip("-") for key in overrides or ()}
    if "kimg" in given and "minutes" not in given:  # one budget takes the other's place
        values["minutes"] = None
    for key, value in (overrides or {}).items():
        dotted = key.strip("-").replace("-", "_")
        info = find_field(dotted)
        if info is None and not is_open(dotted):
            problems.append(unknown_setting(key.strip("-"), value))
            continue
        set_dotted(values, dotted, from_text(value, info))
    if problems:
        raise ConfigError("\n".join(problems))
    return validate(values)


def is_open(dotted: str) -> bool:
    """Whether a name is in a free mapping, or another name of a setting at the top, so that no field has it."""
    return dotted.startswith(_OPEN)


def unknown_setting(typed: str, value: Any) -> str:
    """The error about a name that is no setting."""
    shown = "" if value is None else f" (value {from_text(value, None)!r})"
    return f"--{typed}: no such setting{shown}{_nearest(typed.replace('-', '_'))}"


def validate(values: Mapping[str, Any]) -> RunConfig:
    """RunConfig from a nested dict; ConfigError with one line a mistake."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
        precise = ("extra_forbidden", "value_error")
        told = [(_dotted(e), e["type"] in precise) for e in errors]

        def is_noise(e: Any) -> bool:
            """What a union's other branches say of a value: of a mapping the branch that is one tells best, else what
            all allow.
            """
            here = _dotted(e)
            if not isinstance(e["input"], Mapping):
                return e["type"] in precise and (here, False) in told
            better = any(name.startswith(f"{here}.") or (name == here and exact) for name, exact in told)
            return better and e["type"] not in precise

        raise ConfigError("\n".join(dict.fromkeys(_explain(e) for e in errors if not is_noise(e)))) from None


def read_yaml(file: str | Path) -> dict[str, Any]:
    """A YAML file, by its path or by the name of one that ships, as a dict; ConfigError names the file, and the line
    where it is no YAML.
    """
    path = find_config(file)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        near = [str(path.parent / name) for name in nearest(path.name, (p.name for p in path.parent.glob("*.y*ml")))]
        near = near or nearest(path.stem, shipped_configs())
        raise ConfigError(
            f"--config {file}: no such file{suggest(near)}; `distgan config --list` shows the names of those that ship"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {file}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {file}: not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"--config {file}: must hold settings like 'kimg: 100', not a {type(values).__name__}")
    return values


def shipped_configs() -> dict[str, Path]:
    """The configs and search spaces that ship with the package: name -> file."""
    return {file.stem: file for file in sorted(RECIPES.glob("*.yaml"))}


def find_config(file: str | Path) -> Path:
    """The file that a --config or --search means: a path, or the name of one that ships, which a path does without.
    jobs/configs/NAME.yaml is where they were once.
    """
    path = Path(os.path.expanduser(file))
    name = str(file)
    if path.parent.parts[-2:] == ("jobs", "configs"):
        name = path.stem
    return path if path.is_file() else shipped_configs().get(name, path)


def dump_config(config: BaseModel) -> str:
    """The resolved settings as YAML that `load_config` reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts, `over` winning."""
    out = dict(base)
    for key, value in over.items():
        here = out.get(key)
        out[key] = (
            merge(here, value) if isinstance(value, Mapping) and isinstance(here, Mapping) and key != "space" else value
        )
    return out


def set_dotted(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a nested value by its dotted name, making the sections on the way (the section dicts are copied, not
    shared).
    """
    head, _, rest = dotted.partition(".")
    if rest:
        inner = dict(values[head]) if isinstance(values.get(head), Mapping) else {}
        if head == "space" or (head in ("g_args", "d_args")):
            inner[rest] = value
        else:
            set_dotted(inner, rest, value)
        values[head] = inner
    else:
        values[head] = value


def get_dotted(config: BaseModel, dotted: str) -> Any:
    """The value of a setting by its dotted name."""
    value: Any = config
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def walk_fields(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(dotted name, field) of every setting, sections left out."""
    for name, info in model.model_fields.items():
        inner = _section(info.annotation)
        if inner is not None:
            yield from walk_fields(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info


def find_field(dotted: str) -> FieldInfo | None:
    """The field of a dotted name (a setting or a whole section), or None."""
    model: type[BaseModel] = RunConfig
    info: FieldInfo | None = None
    for part in dotted.split("."):
        if info is not None:
            inner = _section(info.annotation) or next(
                (a for a in alternatives(info.annotation) if isinstance(a, type) and issubclass(a, BaseModel)), None
            )
            if inner is None:
                return None
            model = inner
        info = model.model_fields.get(part)
        if info is None:
            return None
    return info


def allowed_text(info: FieldInfo) -> str:
    """What a setting may be, in words: '> 0, <= 10', 'crop, pad', 'a whole number'."""
    bounds = []
    for holder in [info, *(a for a in alternatives(info.annotation, keep_annotated=True))]:
        metadata = holder.metadata if isinstance(holder, FieldInfo) else getattr(holder, "__metadata__", ())
        for m in metadata:
            pieces = m.metadata if isinstance(m, FieldInfo) else [m]
            for piece in pieces:
                for sign, attribute in ((">", "gt"), (">=", "ge"), ("<", "lt"), ("<=", "le")):
                    limit = getattr(piece, attribute, None)
                    if limit is not None and f"{sign} {limit}" not in bounds:
                        bounds.append(f"{sign} {limit}")
    kinds = [name for holder in info.metadata if isinstance(holder, OneOf | Sides) for name in holder.allowed]
    for member in alternatives(info.annotation):
        if member is str and kinds:
            continue
        if typing.get_origin(member) is Literal:
            kinds += [str(v) for v in typing.get_args(member)]
        elif isinstance(member, type) and issubclass(member, bool):
            kinds.append("true or false")
        elif member is int:
            kinds.append("a whole number")
        elif member is float:
            kinds.append("a number")
        elif member is str:
            kinds.append("text")
        elif typing.get_origin(member) is list:
            choices = _choices(member)
            kinds.append(f"a list of {', '.join(choices)}" if choices else "a list of numbers")
        elif typing.get_origin(member) is dict or member is dict:
            kinds.append("a mapping")
        elif isinstance(member, type) and issubclass(member, BaseModel):
            kinds.append("{" + ", ".join(member.model_fields) + "}")
    text = " ".join([", ".join(kinds), " and ".join(bounds)]).strip()
    return f"{text}, or null" if type(None) in alternatives(info.annotation) else text


def alternatives(annotation: Any, keep_annotated: bool = False) -> list[Any]:
    """The alternatives of a type, unions and Annotated unfolded."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return ([annotation] if keep_annotated else []) + alternatives(typing.get_args(annotation)[0], keep_annotated)
    if origin in (Union, types.UnionType):
        return [m for a in typing.get_args(annotation) for m in alternatives(a, keep_annotated)]
    return [annotation]


def _choices(annotation: Any) -> list[str]:
    """What the items of a list type may be, where they are names."""
    items = [m for a in typing.get_args(annotation) for m in alternatives(a, keep_annotated=True)]
    named = [one for m in items for one in getattr(m, "__metadata__", ()) if isinstance(one, OneOf)]
    texts = [str(v) for m in items if typing.get_origin(m) is Literal for v in typing.get_args(m)]
    return [name for one in named for name in one.names] + texts


def _section(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def from_text(value: Any, info: FieldInfo | None) -> Any:
    """A command-line string as YAML would read it; text settings take it as it is."""
    if not isinstance(value, str):
        return value
    members = alternatives(info.annotation) if info is not None else []
    if value.lower() in ("null", "none") and (type(None) in members or not members):
        return None
    sides = info is not None and any(isinstance(holder, Sides) for holder in info.metadata)
    if str in members and not sides and list not in [typing.get_origin(m) for m in members]:
        return value
    if any(typing.get_origin(m) is Literal and value in typing.get_args(m) for m in members):
        return value
    if any(typing.get_origin(m) is list for m in members) and not value.lstrip().startswith("["):
        value = f"[{value}]"
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _nearest(dotted: str) -> str:
    if hint(dotted):
        return hint(dotted)
    if answer(dotted):
        return f"; {answer(dotted)}"
    if same := meant(dotted, [name for name, _ in walk_fields()]):
        return suggest(same)
    above, _, last = dotted.rpartition(".")
    info = find_field(above) if above else None
    inside = (
        [f"{above}.{f}" for m in alternatives(info.annotation) if info and _section(m) for f in m.model_fields]
        if info
        else []
    )
    names = [
        name for name, _ in walk_fields()
    ] + inside  # those of a mapping that a setting may be are no settings of their own
    same_end = [n for n in names if n.rpartition(".")[2] == last]
    near = same_end[:3] or nearest(dotted, names)
    if not near:
        ends = {n.rpartition(".")[2]: n for n in names}
        near = [ends[e] for e in nearest(last, ends)]
    return suggest(near) or "; `distgan train --help all` lists every setting"


def _dotted(error: Any) -> str:
    """The setting that a pydantic error is about, without the parts that name a union's branch or a list's index."""
    *above, last = error["loc"] or ("",)
    parts: list[str] = []
    for part in map(str, above):
        if find_field(".".join([*parts, part])) is not None:
            parts.append(part)
    if error["type"] == "extra_forbidden" or find_field(".".join([*parts, str(last)])) is not None:
        parts.append(str(last))
    return ".".join(parts)


def _explain(error: Any) -> str:
    """One pydantic error as one line: setting, value, what is allowed, nearest right name."""
    dotted, value = _dotted(error), error.get("input")
    if error["type"] == "extra_forbidden":
        return f"{dotted}: no such setting (value {value!r}){_nearest(dotted)}"
    if error["type"] == "value_error":
        reason = str(error["ctx"]["error"])
        return f"{dotted} = {value!r}: {reason}{value_answer(dotted, value)}" if dotted else reason
    info = find_field(dotted)
    allowed = allowed_text(info) if info is not None else error["msg"]
    near = ""
    if isinstance(value, str) and info is not None:
        members = alternatives(info.annotation)
        choices = [str(v) for m in members if typing.get_origin(m) is Literal for v in typing.get_args(m)]
        choices += [choice for m in members if typing.get_origin(m) is list for choice in _choices(m)]
        near = did_you_mean(value, choices)
    return f"{dotted} = {value!r}: allowed: {allowed}{value_answer(dotted, value) or near}"
