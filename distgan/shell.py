"""What the commands are made of, in click's terms. Nothing here imports the settings before they are needed: that takes
longer than `distgan --help` may.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from distgan.text import command, did_you_mean

if TYPE_CHECKING:
    from distgan.config import RunConfig

    _ParamType = click.ParamType[str]
else:  # before click 8.4 it takes no type
    _ParamType = click.ParamType

HELP = ("-h", "--help")


class Group(click.Group):
    """All commands. Its help is printed as it is written, and a wrong name gets a suggestion."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(self.help or "")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for param in self.get_params(ctx) for name in param.opts}
        if args and args[0].startswith("-") and args[0] not in own and not ctx.resilient_parsing:
            raise click.UsageError(
                f"{args[0]}: a command comes first, for example {command('distgan', 'train', *args)}"
            )
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not ctx.resilient_parsing:
            hint = did_you_mean(args[0], self.commands)
            if not hint and os.path.exists(args[0]):
                hint = f"; did you mean {command('distgan', 'train', *args)}?"
            raise click.UsageError(f"{args[0]}: no such command; allowed: {', '.join(self.commands)}{hint}")
        return super().resolve_command(ctx, args)


class SettingsCommand(click.Command):
    """A command that takes every setting beside its own options, and DATA where it has `data`. What was typed of them
    is its argument `settings`, by dotted name.
    """

    def __init__(
        self,
        *args: Any,
        resolved: Callable[[str | None, dict[str, Any]], RunConfig],
        files: Sequence[str] = (),
        data: bool = False,
        **more: Any,
    ) -> None:
        """files: which options name a YAML file, of "config" and "search". resolved: the run description that follows
        from a config's file and settings.
        """
        super().__init__(*args, **more)
        self._resolved, self._files, self._data = resolved, files, data

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from distgan.config.command_line import options

        own = self.own_params(ctx)
        names = {name for param in own for name in param.opts}
        return [*own, *(option for option in options() if names.isdisjoint(option.opts))]

    def own_params(self, ctx: click.Context) -> list[click.Parameter]:
        """All but the settings."""
        from distgan.config.command_line import DATA, FILES

        return [*([DATA] if self._data else []), *(FILES[name] for name in self._files), *super().get_params(ctx)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from distgan.config.command_line import settings_of, spelled

        if ctx.resilient_parsing:  # the shell asks how a word may go on
            return super().parse_args(ctx, args)
        asked = next((i for i, word in enumerate(args) if word in HELP), None)
        if asked is not None:
            follows = "".join(args[asked + 1 : asked + 2])
            topic = "" if follows.startswith("-") else follows
            rest = args[:asked] + [word for word in args[asked + 1 + bool(topic) :] if word not in HELP]
            click.echo(self.help_about(ctx, topic, rest))
            ctx.exit()
        words, taken = spelled(args, self.get_params(ctx), self.name or "")
        rest = super().parse_args(ctx, words)
        ctx.params["settings"] = settings_of(ctx, taken)
        return rest

    def help_about(self, ctx: click.Context, topic: str, words: list[str]) -> str:
        """Usage and the settings of a topic, with the values that the command would use after these words."""
        from distgan.config import ConfigError, load_config
        from distgan.config.help import settings_help

        file, typed = None, {}
        with contextlib.suppress(ConfigError, click.UsageError):  # then help is about the command as it is
            params = self.make_context(self.name, words).params
            load_config(params.get("config"), params["settings"])
            file, typed = params.get("config"), params["settings"]
        used, stated = self._resolved(file, typed), load_config(file, typed)
        settings = settings_help(topic, used, stated, self.name or "")
        return settings if topic else f"{self.get_help(ctx)}\n\n{settings}"

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [
            param for param in self.own_params(ctx) if isinstance(param, click.Option) and "--help" not in param.opts
        ]
        records = [record for param in own if (record := param.get_help_record(ctx)) is not None]
        with formatter.section("Options"):
            formatter.write_dl(
                [*records, ("-h, --help [TOPIC]", "this; or about a section, a setting, or all settings")]
            )


class WordsCommand(click.Command):
    """A command that reads its words itself."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params["words"] = list(args)
        return []


class RunName(_ParamType):
    """A run, by name, folder or URI; the shell completes the names in ./runs."""

    name = "run"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        runs = Path(ctx.params.get("storage") or "./runs")
        names = sorted(entry.name for entry in runs.iterdir() if entry.is_dir()) if runs.is_dir() else []
        found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        # The shell's own comes first, or it takes the others' place
        return [CompletionItem(incomplete, type="dir"), *found]
