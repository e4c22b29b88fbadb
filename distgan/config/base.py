"""What the sections of the run description are made of: fields with a meaning and a unit, numbers, and the errors for a
person.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


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


Number = Annotated[float, BeforeValidator(_finite), Field(allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_finite)]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are checked on assignment, and nothing is changed in
    place.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, protected_namespaces=())
