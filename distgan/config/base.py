"""What the sections of the run description are made of: fields with a meaning and a unit, numbers, and the errors for a
person.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import core_schema

from distgan.registry import refusal


class ConfigError(ValueError):
    """A setting that cannot be used. The message names the setting, its value, what is allowed and the fix."""


class RunError(RuntimeError):
    """A run that ended with an error. The message is for a person."""


def setting(default: Any, text: str, *, unit: str = "", **bounds: Any) -> Any:
    """A field with its meaning and unit; mutable defaults are copied for each instance."""
    extra: Any = {"unit": unit} if unit else None
    if callable(default) or isinstance(default, list | dict):
        factory = default if callable(default) else (lambda: default.copy())
        return Field(default_factory=factory, description=text, json_schema_extra=extra, **bounds)
    return Field(default, description=text, json_schema_extra=extra, **bounds)


def _finite(value: Any) -> Any:
    # Reading "1e-4" from YAML gives a string (YAML 1.1 wants "1.0e-4"), which pydantic turns into the number that was
    # meant; true and false are integers to Python, but nobody means a number by them.
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


class OneOf:
    """A text setting that names one of several things: Annotated[str, OneOf(registry.LOSSES)].

    names: the things, or a function that gives them; they are asked for at each check, so that what is registered later
    counts too. more: further names. own: in words, what a text with a colon may be, where one is allowed. hint: what
    else to do.
    """

    def __init__(
        self,
        names: Iterable[str] | Callable[[], Iterable[str]],
        more: tuple[str, ...] = (),
        *,
        own: str = "",
        hint: str = "",
    ) -> None:
        self._names, self._more, self.own, self.hint = names, more, own, hint

    @property
    def names(self) -> list[str]:
        """The names, without what `own` tells."""
        return [*self._more, *(self._names() if callable(self._names) else self._names)]

    @property
    def allowed(self) -> list[str]:
        """Everything that may be written, in words."""
        return [*self.names, self.own] if self.own else self.names

    def check(self, value: str) -> str:
        """The value as it is; ValueError says what is allowed."""
        if value in self.names or (self.own and value.count(":") == 1 and all(value.split(":"))):
            return value
        raise ValueError(refusal(value, self.names, self.own) + (f"; {self.hint}" if self.hint else ""))

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))


class Sides:
    """A setting that is the size of images: the side in pixels of square ones, "HEIGHTxWIDTH" of others, or None.

    ge, le: the least and the largest side. Takes [HEIGHT, WIDTH] too.
    """

    allowed = ("HEIGHTxWIDTH",)

    def __init__(self, ge: int, le: int) -> None:
        self.ge, self.le = ge, le

    def check(self, value: Any) -> int | str | None:
        """The value in its one spelling; ValueError says what is allowed."""
        if value is None:
            return None
        words = re.split(r"\s*[xX\N{MULTIPLICATION SIGN}]\s*", value.strip()) if isinstance(value, str) else value
        numbers = [_whole(word) for word in (words if isinstance(words, list | tuple) else [words])]
        good = len(numbers) in (1, 2) and all(n is not None and self.ge <= n <= self.le for n in numbers)
        if not good:
            raise ValueError(
                f"must be a whole number >= {self.ge} and <= {self.le}, the side of square images, or HEIGHTxWIDTH of "
                "such numbers, for example 48x64"
            )
        return numbers[0] if len(set(numbers)) == 1 else "x".join(map(str, numbers))

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)


def _whole(value: Any) -> int | None:
    text = str(value).strip()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(text) if text.isascii() and text.isdigit() else None


Number = Annotated[float, BeforeValidator(_finite), Field(allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_finite)]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are checked on assignment, and nothing is changed in
    place.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, protected_namespaces=())
