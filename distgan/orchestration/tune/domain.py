"""One searched setting: its distribution, read from a space and checked against the setting's own type and range.

    g_lr: {loguniform: [5.0e-5, 1.0e-3]}      beta1: {choice: [0.0, 0.5]}

A key is any setting's dotted name, or one of the short names in `SHORT`.
"""

from __future__ import annotations

import difflib
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from distgan.config import ConfigError, RunConfig, allowed_text, find_field, get_dotted, walk_fields

KINDS = ("uniform", "loguniform", "quniform", "randint", "lograndint", "choice", "grid")

# Short name -> the settings that it writes
SHORT: dict[str, tuple[str, ...]] = {
    "g_lr": ("optim.g.lr",),
    "d_lr": ("optim.d.lr",),
    "d_lr_ratio": ("optim.d.lr",),
    "beta1": ("optim.g.beta1", "optim.d.beta1"),
    "beta2": ("optim.g.beta2", "optim.d.beta2"),
    "one_minus_beta2": ("optim.g.beta2", "optim.d.beta2"),
    "r1_gamma": ("loss.r1_gamma",),
    "r2_gamma": ("loss.r2_gamma",),
    "gamma": ("loss.r1_gamma", "loss.r2_gamma"),
    "gp_lambda": ("loss.gp_lambda",),
    "loss": ("loss.name",),
    "n_dis": ("training.n_dis",),
    "batch": ("batch_size",),
}

# What makes two networks comparable must be equal in all trials; what runs them is not the search's.
_FIXED = (
    "name",
    "storage",
    "engine",
    "workers",
    "kimg",
    "seed",
    "finetune",
    "data.",
    "metrics.",
    "checkpoint.",
    "log.",
    "ray.",
    "tune.",
)
_SEARCHED_ALL_THE_SAME = ("data.mirror",)


@dataclass(frozen=True)
class Domain:
    """The values of one key. `low` and `high` belong to it."""

    key: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    step: float = 0.0
    choices: tuple[Any, ...] = ()

    @property
    def log(self) -> bool:
        return self.kind.startswith("log")

    @property
    def integer(self) -> bool:
        return self.kind.endswith("randint")

    @property
    def continuous(self) -> bool:
        return self.kind in ("uniform", "loguniform", "quniform")

    @property
    def text(self) -> str:
        """The domain in words."""
        if self.choices:
            return f"{self.kind} {', '.join(map(str, self.choices))}"
        return f"{self.kind} {self.low:g} to {self.high:g}" + (f" in steps of {self.step:g}" if self.step else "")

    def at(self, share: float) -> Any:
        """The value at a share in [0, 1) of the distribution."""
        if self.choices:
            return self.choices[int(share * len(self.choices))]
        high = self.high + 1 if self.integer else self.high
        value = self.low * (high / self.low) ** share if self.log else self.low + share * (high - self.low)
        return self.shaped(math.floor(value) if self.integer else value)

    def shaped(self, value: float) -> Any:
        """The nearest value of the domain."""
        if self.choices:
            return value if value in self.choices else self.choices[0]
        if self.step:
            value = self.low + round((value - self.low) / self.step) * self.step
        value = min(max(value, self.low), self.high)
        return round(value) if self.integer else float(value)

    def holds(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and math.isclose(self.shaped(value), value, rel_tol=1e-9, abs_tol=1e-15)

    def ends(self) -> list[Any]:
        return list(self.choices) or [self.shaped(self.low), self.shaped(self.high)]

    def distribution(self) -> Any:
        """The same as an optuna distribution."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step or None)


def read_domain(key: str, spec: Any, config: RunConfig) -> Domain:
    info = _setting_of(key)
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise ConfigError(
            f"space.{key} = {spec!r}: needs one distribution, for example {{loguniform: [1.0e-4, 1.0e-2]}}; allowed: "
            f"{', '.join(KINDS)}"
        )
    ((kind, bounds),) = spec.items()
    kind = {"grid_search": "grid"}.get(kind, kind)
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"space.{key}: no such distribution as {kind!r}; allowed: {', '.join(KINDS)}{hint}")
    if not isinstance(bounds, list | tuple):
        raise ConfigError(f"space.{key}.{kind} = {bounds!r}: must be a list, like {_example(kind)}")
    types = _types(info)
    return (
        _choices(key, kind, bounds, types, config)
        if kind in ("choice", "grid")
        else _range(key, kind, list(bounds), types, config)
    )


def _choices(key: str, kind: str, values: Any, types: set[type], config: RunConfig) -> Domain:
    if not values:
        raise ConfigError(f"space.{key}.{kind} = []: is empty; give at least one value")
    if any(not isinstance(v, str | int | float | None) for v in values):
        raise ConfigError(f"space.{key}.{kind} = {values!r}: values must be numbers, texts, true, false or null")
    if float in types and bool not in types:  # texts among them: auto, of loss.r1_gamma for instance
        values = [v if v in (None, "auto") else _number(key, kind, v) for v in values]
    values = list(dict.fromkeys(values))
    own = value_of(config, key)
    return Domain(key, kind, choices=(own, *(v for v in values if v != own)))


def _range(key: str, kind: str, bounds: list[Any], types: set[type], config: RunConfig) -> Domain:
    wanted = 3 if kind == "quniform" else 2
    if len(bounds) != wanted:
        raise ConfigError(f"space.{key}.{kind} = {bounds!r}: needs {wanted} numbers, like {_example(kind)}")
    low, high, *rest = (_number(key, kind, b) for b in bounds)
    if not types & {int, float} or (str in types and float not in types):
        allowed = allowed_text(_setting_of(key))
        raise ConfigError(f"space.{key}.{kind}: this setting is no number ({allowed}); use {{choice: [...]}}")
    integer = kind.endswith("randint")
    if integer != (float not in types):
        fix = "randint or choice" if float not in types else "uniform, loguniform or choice"
        raise ConfigError(
            f"space.{key}.{kind}: this setting is {'a whole number' if float not in types else 'a number'}; use {fix}"
        )
    if not low < high:
        raise ConfigError(f"space.{key}.{kind} = {bounds!r}: the first number must be below the second")
    if kind.startswith("log") and low <= 0:
        raise ConfigError(f"space.{key}.{kind} = {bounds!r}: a logarithmic range must begin above 0")
    step = rest[0] if rest else 0.0
    if rest and not 0 < step <= high - low:
        raise ConfigError(f"space.{key}.{kind} = {bounds!r}: the step must be above 0 and at most {high - low:g}")
    if step:
        high = low + math.floor((high - low) / step + 1e-9) * step
    if integer:  # as in Tune, the upper end of a randint does not belong to it
        if low % 1 or high % 1:
            raise ConfigError(f"space.{key}.{kind} = {bounds!r}: must be whole numbers")
        high -= 1
    return Domain(key, kind, low, high, step)


def _setting_of(key: str) -> FieldInfo:
    names = SHORT.get(key, (key,))
    info = find_field(names[0])
    known = {name: name for name, _ in walk_fields()} | {name: name for name in SHORT}
    if info is None or (key not in known):
        near = difflib.get_close_matches(key, known, 1, 0.6) or [n for n in known if n.rpartition(".")[2] == key][:2]
        near = near or difflib.get_close_matches(key.rpartition(".")[2], known, 1, 0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; short names: {', '.join(SHORT)}"
        raise ConfigError(f"space.{key}: no such setting{hint}")
    if names[0].startswith(_FIXED) and names[0] not in _SEARCHED_ALL_THE_SAME:
        raise ConfigError(
            f"space.{key}: cannot be searched, because trials that differ in it cannot be compared; "
            "allowed: settings of model, loss, optim, augment and training, and batch_size"
        )
    return info


def value_of(config: RunConfig, key: str) -> Any:
    if key == "d_lr_ratio":
        return config.optim.d.lr / config.optim.g.lr
    name = SHORT.get(key, (key,))[0]
    value = get_dotted(config, name)
    if value == "auto" and name in ("loss.r1_gamma", "loss.r2_gamma"):
        value = config.loss.gammas[name == "loss.r2_gamma"]
    return 1.0 - value if key == "one_minus_beta2" else value


def _types(info: FieldInfo) -> set[type]:
    """The plain types that a setting may have; texts with fixed choices count as str."""
    found: set[type] = set()
    todo = [info.annotation]
    while todo:
        kind: Any = todo.pop()
        if isinstance(kind, type):
            found.add(kind)
        elif typing.get_origin(kind) is typing.Literal:
            found |= {type(v) for v in typing.get_args(kind)}
        elif typing.get_origin(kind) is typing.Annotated:
            todo.append(typing.get_args(kind)[0])
        else:
            todo += typing.get_args(kind)
    return found


def _number(key: str, kind: str, value: Any) -> float:
    try:
        if isinstance(value, bool) or not math.isfinite(number := float(value)):
            raise ValueError
    except (TypeError, ValueError):
        raise ConfigError(f"space.{key}.{kind}: {value!r} is no number") from None
    return number


def _example(kind: str) -> str:
    return {"choice": "[0.0, 0.5]", "grid": "[0.0, 0.5]", "quniform": "[0.0, 1.0, 0.1]", "randint": "[1, 5]"}.get(
        kind, "[1.0e-4, 1.0e-2]"
    )
