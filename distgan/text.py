"""Small pieces of text that many messages need, written once: suggestions, durations, tables, counts, first lines."""

from __future__ import annotations

import difflib
import re
import shlex
import textwrap
from collections.abc import Iterable, Sequence

CUTOFF = 0.5
"""Likeness (difflib's ratio) from which a name is suggested for another."""


def nearest(word: str, choices: Iterable[str], most: int = 1) -> list[str]:
    """Up to `most` of the choices that are spelled most like `word`, best first; case and _ or - make no difference."""
    plain = {_plain(choice): choice for choice in choices}
    return [plain[near] for near in difflib.get_close_matches(_plain(word), plain, most, CUTOFF)]


def suggest(near: Sequence[str]) -> str:
    """The end of an error message: "; did you mean a or b?", or nothing."""
    return f"; did you mean {' or '.join(near)}?" if near else ""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The end of an error message about a name that does not exist: "; did you mean a?", or nothing."""
    return suggest(nearest(word, choices))


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def duration(seconds: float) -> str:
    """How long, in words, as exact as a person wants it: 45 s, 12 min, 3 h 20 min, 5 d 2 h."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if hours < 1:
        return f"{minutes} min"
    if days < 2:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{days} d {hours % 24} h" if hours % 24 else f"{days} d"


def clock(seconds: float) -> str:
    """How long, as a clock shows it: 2:03, 1:02:03."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def count(n: int, noun: str, plural: str | None = None) -> str:
    """1 worker, 3 workers; `plural` is for nouns that take more than an s."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def command(*words: object) -> str:
    """A command that can be pasted into a shell, whatever its names hold."""
    return shlex.join(map(str, words))


def printable(text: str) -> str:
    """The text with \\x and a number for what is no character: a file's name need not be UTF-8, and arrives with half
    characters (surrogates) that nothing can write.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half characters that come of no name: JSON can hold any
        return text.encode("utf-8", "backslashreplace").decode()


def some_names(names: Sequence[str], most: int = 12) -> str:
    """a, b, c and 7 more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def clipped(text: str, most: int) -> str:
    """The text's first sentence where it has several, and of that at most so many characters, whole words."""
    sentence = re.split(r"(?<!\bal)\. (?=[A-Z])", text)[0].rstrip(".:")
    return textwrap.shorten(sentence, most, placeholder=" ...")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equally many cells as lines with aligned columns; the first row is the heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def first_line(said: object) -> str:
    """The first line of a text or an error that is not empty; an error without words is told by its type."""
    return _line(said, 0)


def last_line(said: object) -> str:
    """The last such line: where libraries put the reason."""
    return _line(said, -1)


def _line(said: object, which: int) -> str:
    lines = [line.strip() for line in str(said).splitlines() if line.strip()]
    nothing = type(said).__name__ if isinstance(said, BaseException) else ""
    return lines[which] if lines else nothing
