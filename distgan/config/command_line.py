"""Settings on a command line, as options of click: every setting by its dotted name, and what else may be typed for it
(`synonyms`).
"""

from __future__ import annotations

import functools
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import click
from click.shell_completion import CompletionItem

from distgan.config.base import ConfigError, OneOf
from distgan.config.reading import alternatives, find_field, is_open, shipped_configs, unknown_setting, walk_fields
from distgan.config.synonyms import FOLDERS, meant
from distgan.text import suggest

if TYPE_CHECKING:
    _ParamType = click.ParamType[str]
else:  # before 8.4 it takes no type
    _ParamType = click.ParamType

TYPED = "settings are typed as --name value, for example --kimg 100"


def parse_overrides(arguments: Sequence[str], command: str = "train") -> tuple[str | None, dict[str, Any]]:
    """(config file, settings by dotted name as typed) from `DATA`, `--key value`, `--key=value`, `--key a b` (a list)
    and `--flag` (true). command: the settings of `tune` have short names in `tune` alone. Raises ConfigError.
    """
    reader = click.Command(command, params=[DATA, FILES["config"], *options()], add_help_option=False)
    words, taken = spelled(arguments, reader.params, command)
    try:
        with reader.make_context(command, words, resilient_parsing=False) as context:
            values = settings_of(context, taken)
            return context.params["config"], values
    except click.UsageError as error:
        raise ConfigError(in_words(error)) from None


class _Value(_ParamType):
    """A setting's value as it is typed: `load_config` reads and checks it."""

    name = "value"

    def __init__(self, choices: Sequence[str] = ()) -> None:
        self.choices = choices

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if isinstance(value, str) and value.startswith("--"):
            raise click.BadOptionUsage("", _needs_value(param.opts[-1] if param is not None else ""), ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(choice) for choice in self.choices if choice.startswith(incomplete)]


class _Config(_Value):
    """A config's file, or the name of one that ships."""

    name = "FILE_OR_NAME"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        self.choices = [name for name in shipped_configs() if (param.name == "search") == name.startswith("search-")]
        return [CompletionItem(incomplete, type="file"), *super().shell_complete(ctx, param, incomplete)]


def _one_file(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> str | None:
    if len(values) > 1:
        raise click.BadOptionUsage("", f"--{param.name}: given twice", ctx)
    return values[0] if values else None


FILES = {
    name: click.Option([f"--{name}"], type=_Config(), multiple=True, callback=_one_file, help=text)
    for name, text in {
        "config": "a YAML file of settings, or the name of one that ships (distgan config --list)",
        "search": "a YAML file of what is searched, or the name of one that ships; without it rates, betas and penalty",
    }.items()
}
"""Options that name a file."""
DATA = click.Argument(["data"], nargs=-1, type=click.Path(), metavar="[DATA]")
"""The data of a command that trains: a path or a known set, for --data.name."""


@functools.cache
def options() -> list[click.Option]:
    """One option a setting. Each keeps all values that it is given, so that two can be told from one."""
    found = []
    for name, info in walk_fields():
        flag: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if bool in alternatives(info.annotation) else {}
        found.append(
            click.Option(
                [_identifier(name), f"--{name.replace('_', '-')}"],
                type=_Value(_choices(info)),
                multiple=True,
                help=info.description,
                **flag,
            )
        )
    return found


def settings_of(context: click.Context, taken: dict[str, tuple[str, Any]]) -> dict[str, Any]:
    """The settings among a command's parameters, which they are taken out of; `taken` from `spelled`. Tells on standard
    error what was taken for what. Raises ConfigError for what is given twice.
    """
    values: dict[str, Any] = {}
    for name, _ in walk_fields():
        given = context.params.pop(_identifier(name), ())
        if len(given) > 1:
            raise ConfigError(f"--{name.replace('_', '-')}: given twice")
        if given:
            values[name] = given[0]
    free = {name: value for name, (typed, value) in taken.items() if not typed}
    data = context.params.pop("data", ())
    if _is_folder(taken.get("data.name", ("", None))[0]) and (data or "data.name" in values):
        taken["data.root"] = taken.pop("data.name")  # a folder beside the name of a set
    if data:
        _check_data(data, {name: value for name, (_, value) in taken.items()} | values)
        taken["data.name"] = ("", data[0])
    told: dict[str, list[str]] = {}
    for name, (typed, _) in taken.items():
        if typed and name not in values:
            told.setdefault(typed, []).append(name)
    for typed, names in told.items():
        print(f"distgan: {typed} is taken as {' and '.join(f'--{name}' for name in names)}", file=sys.stderr)
    return {name: value for name, (_, value) in taken.items()} | values | free


def _check_data(data: Sequence[str], values: dict[str, Any]) -> None:
    """Raise ConfigError where the words without dashes can be no data."""
    word = data[0]
    if len(data) > 1 or "=" in word or word.startswith("-") or _is_number(word) or find_field(word.replace("-", "_")):
        raise ConfigError(f"{' '.join(data)}: {TYPED}; the one word without dashes is the data")
    if "data.name" in values:
        raise ConfigError(f"{word}: the data are --data.name {values['data.name']} already; leave one of them out")


def spelled(
    arguments: Sequence[str], params: Sequence[click.Parameter], command: str = "train"
) -> tuple[list[str], dict[str, tuple[str, Any]]]:
    """What was typed, for click: several words of one list joined. Beside it what click has no option for: setting ->
    (the synonym that it was typed as, or "", value). Raises ConfigError with one line for each unknown name.

    params: all options of the command.
    """
    known = {name for param in params for name in param.opts}
    names = {name for name, _ in walk_fields()}
    words: list[str] = []
    taken: dict[str, tuple[str, Any]] = {}
    unknown: list[str] = []
    for word, equals, follow in _grouped(arguments):
        key = word.removeprefix("--").replace("-", "_")
        typed = f"--{key.replace('_', '-')}" if word.startswith("--") and key in names else word
        if not word.startswith("--") or typed in known:
            if word.startswith("-") and word[:2] != "--" and word[:2] not in known and not _is_number(word):
                raise ConfigError(f"{word}: {TYPED}")
            if typed in known and follow and _is_flag(key) and not _is_switch(follow[0]):
                equals = "=true"
            several = len(follow) > 1 and not equals and typed in known and _takes_several(key)
            words += [f"{typed}=[{', '.join(follow)}]"] if several else [typed + equals, *follow]
            continue
        if not key.strip("_"):
            raise ConfigError(f"{word}: {TYPED}")
        found = (key,) if is_open(key) else meant(key, names, command)
        if not found:
            unknown.append(unknown_setting(word[2:], _value(follow, equals)))
            continue
        if follow and not is_open(key) and not all(map(_takes_several, found)):
            own = 0 if all(map(_is_flag, found)) and not _is_switch(follow[0]) else 1
            words += follow[own:]
            follow = follow[:own]
        for name in found:
            value = _value(follow, equals)
            _take(taken, name, "" if name == key else word, _flag(name, word) if value is None else value)
    if unknown:
        raise ConfigError("\n".join(unknown))
    return words, taken


def _take(taken: dict[str, tuple[str, Any]], name: str, synonym: str, value: Any) -> None:
    before = taken.get(name)
    if before is None:
        taken[name] = (synonym, value)
    elif _is_folder(before[0]) == _is_folder(synonym):
        both = dict.fromkeys(typed or f"--{name}" for typed in (before[0], synonym))
        raise ConfigError(f"{' and '.join(both)}: given twice")
    else:  # the name of a set, and the folder that it lies in
        folder, known = (before, (synonym, value)) if _is_folder(before[0]) else ((synonym, value), before)
        taken["data.root"], taken[name] = folder, known


def _is_folder(synonym: str) -> bool:
    return synonym.lower().replace("-", "").replace("_", "") in FOLDERS


def _grouped(arguments: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    """(word, "=value" or "", words that follow up to the next option) of each option, and of each word before any."""
    position = 0
    while position < len(arguments):
        word, mark, value = arguments[position].partition("=")
        position += 1
        if not word.startswith("--"):
            yield arguments[position - 1], "", []
            continue
        start = position
        while not mark and position < len(arguments) and not re.match(r"--|-[A-Za-z]", arguments[position]):
            position += 1
        yield word, f"={value}" if mark else "", list(arguments[start:position])


def _value(words: Sequence[str], equals: str) -> str | None:
    """What was typed for an option: after =, or the words behind it; None without any."""
    if equals or not words:
        return equals[1:] if equals else None
    return words[0] if len(words) == 1 else f"[{', '.join(words)}]"


def _is_flag(name: str) -> bool:
    """Whether a setting may be typed without a value, which then is true."""
    info = find_field(name)
    return info is not None and bool in alternatives(info.annotation)


def _is_switch(word: str) -> bool:
    """Whether a word behind a flag is its value, and not the data."""
    return word.lower() in ("true", "false", "yes", "no", "on", "off", "1", "0", "auto")


def _flag(name: str, typed: str) -> str:
    if _is_flag(name):
        return "true"
    raise ConfigError(f"{typed}: needs a value, as in {typed} VALUE ({name})")


def _needs_value(option: str) -> str:
    if option.lstrip("-") in FILES:
        return f"{option}: needs one FILE.yaml, or the name of one that ships"
    return f"{option}: needs a value, as in {option} VALUE; `distgan help {option.lstrip('-')}` says which are allowed"


def in_words(error: click.UsageError) -> str:
    """One line of what click refuses."""
    if isinstance(error, click.BadOptionUsage) and error.message.endswith("requires an argument."):
        return _needs_value(error.option_name)
    if isinstance(error, click.NoSuchOption):
        return f"{error.option_name}: no such option{suggest(list(error.possibilities or ())[:3])}"
    if isinstance(error, click.MissingParameter) and error.ctx is not None and error.param is not None:
        wanted = error.param.human_readable_name
        return f"{wanted} is missing: {error.ctx.command_path} {wanted}; `{error.ctx.command_path} --help` tells more"
    return error.format_message()


def _takes_several(name: str) -> bool:
    """False where a list would be taken for text: `--storage PATH kimg=1` must not make a folder of that name."""
    info = find_field(name)
    return info is not None and any(word in str(info.annotation) for word in ("list", "dict", "Any"))


def _choices(info: Any) -> list[str]:
    """Words that a setting may be, for the shell."""
    named = [one for holder in info.metadata if isinstance(holder, OneOf) for one in holder.names]
    members = alternatives(info.annotation)
    literal = [str(v) for m in members if typing.get_origin(m) is Literal for v in typing.get_args(m)]
    return named + literal + (["true", "false"] if bool in members else [])


def _identifier(name: str) -> str:
    """What click calls a setting: no command has an option of its own by such a name."""
    return f"setting__{name.replace('.', '__')}"


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
