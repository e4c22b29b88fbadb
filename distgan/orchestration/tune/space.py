"""The search space: what may be searched, checked against the settings' own types and ranges before anything starts.

A space maps a key to a distribution in Ray Tune's terms:

    g_lr: {loguniform: [5.0e-5, 1.0e-3]}      d_lr_ratio: {choice: [0.5, 1, 2]}
    beta1: {choice: [0.0, 0.5]}               one_minus_beta2: {loguniform: [1.0e-3, 1.0e-1]}
    loss.r1_gamma: {loguniform: [0.01, 10]}   training.n_dis: {randint: [1, 4]}

A key is any setting's dotted name, or one of the short names in `SHORT`. Searched values are base values, so schedules
multiply them. The config's own values are always a point of the space. No ray here: a space is refused before Ray
starts.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
import random
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic.fields import FieldInfo

from distgan.config import (
    ConfigError,
    RunConfig,
    allowed_text,
    find_field,
    get_dotted,
    set_dotted,
    validate,
    walk_fields,
)

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


@dataclass(frozen=True)
class Space:
    """A search space over a config."""

    config: RunConfig
    domains: dict[str, Domain] = field(default_factory=dict)

    @property
    def preset(self) -> dict[str, Any]:
        """The config's own values, by key."""
        return {key: _read(self.config, key) for key in self.domains}

    def apply(self, values: Mapping[str, Any], *, preset: bool = False) -> RunConfig:
        """The config with these values; with `preset`, the config as it is (a short name can stand for values that
        differ).
        """
        if preset:
            return self.config
        nested = self.config.model_dump(mode="json")
        for key in sorted(values, key=lambda k: k == "d_lr_ratio"):  # the ratio needs the generator's rate
            value = values[key]
            if key == "d_lr_ratio":
                value = float(value) * float(nested["optim"]["g"]["lr"])
            elif key == "one_minus_beta2":
                value = 1.0 - float(value)
            for name in SHORT.get(key, (key,)):
                set_dotted(nested, name, value)
        return validate(nested)

    def draw(self, index: int, seed: int) -> dict[str, Any]:
        """Values of trial `index`: grids in order, the rest at random. Trial 0 is the preset."""
        if index == 0:
            return self.preset
        values, rest = {}, index if self.pure_grid else index - 1
        for key, domain in self.domains.items():
            if domain.kind == "grid":
                rest, place = divmod(rest, len(domain.choices))
                values[key] = domain.choices[place]
            else:
                values[key] = domain.at(random.Random(f"{seed}/{index}/{key}").random())
        return values

    @property
    def pure_grid(self) -> bool:
        return all(d.kind == "grid" for d in self.domains.values())

    @property
    def grid_size(self) -> int:
        """Combinations of the grids; 1 without any."""
        return math.prod(len(d.choices) for d in self.domains.values() if d.kind == "grid")

    def explored(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values that a population explored, brought back into the space."""
        return {
            key: self.domains[key].shaped(value) if self.domains[key].continuous else value
            for key, value in values.items()
        }


def open_space(config: RunConfig) -> Space:
    """The space of `config.tune.space`, or the default one. Raises ConfigError with one line a mistake."""
    tune, problems, domains = config.tune, [], {}
    spec = tune.space or default_space(config)
    for key, text in spec.items():
        try:
            domains[key] = _domain(str(key), text, config)
        except ConfigError as error:
            problems.append(str(error))
    if tune.also and tune.space:
        problems.append(
            f"tune.also = {', '.join(tune.also)}: adds to the default space, and the space is given; write it into the "
            "space"
        )
    problems += _clashes(list(domains))
    space = Space(config, domains)
    if not problems:
        problems += _beyond(space) or _disagreements(space)
    if tune.searcher == "optuna" and tune.scheduler not in ("pbt", "pb2"):
        grids = [key for key, domain in domains.items() if domain.kind == "grid"]
        problems += [
            f"space.{key}.grid: optuna does not walk grids; use choice, or tune.searcher: random" for key in grids
        ]
    if not problems and space.grid_size > tune.trials - (not space.pure_grid):
        least = space.grid_size + (not space.pure_grid)
        problems.append(
            f"tune.trials = {tune.trials}: the grids have {space.grid_size} combinations; allowed: at least {least}"
        )
    if not problems and tune.scheduler in ("pbt", "pb2"):
        problems += _population(space)
    if problems:
        raise ConfigError("\n".join(problems))
    return space


def default_space(config: RunConfig) -> dict[str, Any]:
    """Rates and betas around the config's own and what the literature found for its loss; with a penalty, its weight
    too.

    What `tune.also` names comes on top. Sources: Lucic et al., Are GANs Created Equal? (2018); Kurach et al. (2019),
    whose best rates lie in 6e-5 .. 4e-4 (at 2e-4: from a third to twice of it) and for whom beta2 is nearly free;
    Heusel et al. (2017) for separate rates; StyleGAN's documentation for the penalty as what a new data set needs most.
    """
    relativistic, wasserstein = config.loss.name == "relativistic", config.loss.name == "wasserstein"
    ratio = [0.5, 1.0, 2.0] if relativistic else [1.0, 3.0] if wasserstein else [1.0, 2.0, 4.0]
    forget = (1e-2, 3e-1) if relativistic else (1e-3, 1e-1)
    own, loss = _read(config, "one_minus_beta2"), config.loss
    space: dict[str, Any] = {
        "g_lr": {"loguniform": [config.optim.g.lr / 8, min(4 * config.optim.g.lr, 10.0)]},
        "d_lr_ratio": {"choice": ratio},
        "beta1": {"choice": [0.0, 0.5]},
        "one_minus_beta2": {"loguniform": [min(forget[0], own / 4), max(forget[1], own)]},
    }
    # The preset's penalty is strong enough for data that nobody has seen; what suits a given set better is mostly
    # weaker
    weights = (
        {"gamma": loss.r1_gamma}
        if loss.r1_gamma and loss.r2_gamma
        else {"r1_gamma": loss.r1_gamma, "r2_gamma": loss.r2_gamma}
    )
    space |= {key: {"loguniform": [weight / 16, weight * 4]} for key, weight in weights.items() if weight}
    if loss.gp_lambda:
        space["gp_lambda"] = {"loguniform": [min(1.0, loss.gp_lambda), max(30.0, loss.gp_lambda)]}
    batch = config.batch_size
    more: dict[str, Any] = {
        "r1_gamma": {"loguniform": [0.01, 10.0]},
        "loss": {"choice": ["relativistic", "non-saturating", "hinge"]},
        "n_dis": {"choice": [1, 2]},
        "batch": {"choice": [batch, 2 * batch, 4 * batch]},
    }
    return {**{key: more[key] for key in config.tune.also if not (key == "r1_gamma" and loss.r1_gamma)}, **space}


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def _domain(key: str, spec: Any, config: RunConfig) -> Domain:
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
    if float in types and not types & {str, bool}:
        values = [_number(key, kind, v) if v is not None else None for v in values]
    values = list(dict.fromkeys(values))
    own = _read(config, key)
    return Domain(key, kind, choices=(own, *(v for v in values if v != own)))


def _range(key: str, kind: str, bounds: list[Any], types: set[type], config: RunConfig) -> Domain:
    wanted = 3 if kind == "quniform" else 2
    if len(bounds) != wanted:
        raise ConfigError(f"space.{key}.{kind} = {bounds!r}: needs {wanted} numbers, like {_example(kind)}")
    low, high, *rest = (_number(key, kind, b) for b in bounds)
    if not types & {int, float} or str in types:
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


def _clashes(keys: list[str]) -> list[str]:
    """Two keys that write the same setting."""
    written: dict[str, str] = {}
    problems = []
    for key in keys:
        for name in SHORT.get(key, (key,)):
            if name in written and written[name] != key:
                problems.append(f"space.{key}: sets {name}, and so does {written[name]}; keep one of them")
            written[name] = key
    return list(dict.fromkeys(problems))


def _beyond(space: Space) -> list[str]:
    """Ends of domains that the config refuses, one line each."""
    problems = []
    for key, domain in space.domains.items():
        for value in domain.ends():
            try:
                space.apply({key: value})
            except ConfigError as error:
                problems.append(f"space.{key}: {value!r} is not allowed: {str(error).splitlines()[0]}")
                break
    return problems


def _disagreements(space: Space) -> list[str]:
    """Values that are allowed alone and refused together: tried at the corners and at random points."""
    corners = [{k: d.ends()[i] for k, d in space.domains.items()} for i in (0, -1)]
    for values in [*corners, *(space.draw(i, 0) for i in range(1, 33))]:
        try:
            space.apply(values)
        except ConfigError as error:
            shown = ", ".join(f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in values.items())
            return [f"space: {shown} is not allowed: {str(error).splitlines()[0]}"]
    return []


def _population(space: Space) -> list[str]:
    """What pbt and pb2 need: several trials, and values that can change during training."""
    tune, problems = space.config.tune, []
    if not any(d.continuous for d in space.domains.values()):
        example = "g_lr: {loguniform: [5.0e-5, 1.0e-3]}"
        problems.append(
            f"tune.scheduler = {tune.scheduler!r}: explores numbers, and the space has no range; add one, like "
            f"{example}"
        )
    if tune.trials < 2:
        problems.append(f"tune.trials = {tune.trials}: {tune.scheduler} needs a population; allowed: at least 2")
    if tune.scheduler == "pb2" and importlib.util.find_spec("sklearn") is None:
        problems.append("tune.scheduler = 'pb2': needs scikit-learn; `pip install 'distgan[pb2]'`, or use pbt")
    return problems


def _read(config: RunConfig, key: str) -> Any:
    if key == "d_lr_ratio":
        return config.optim.d.lr / config.optim.g.lr
    value = get_dotted(config, SHORT.get(key, (key,))[0])
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
