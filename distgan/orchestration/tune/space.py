"""The search space: what may be searched, checked against the settings' own types and ranges before anything starts.

A space maps a key to a distribution in Ray Tune's terms:

    g_lr: {loguniform: [5.0e-5, 1.0e-3]}      d_lr_ratio: {choice: [0.5, 1, 2]}
    beta1: {choice: [0.0, 0.5]}               one_minus_beta2: {loguniform: [1.0e-3, 1.0e-1]}
    loss.r1_gamma: {loguniform: [0.01, 10]}   training.n_dis: {randint: [1, 4]}

A key is any setting's dotted name, or one of the short names in `SHORT`. Searched values are base values, so schedules
multiply them. The baseline, the config as it is, is always a point of the space. No ray here: a space is refused
before Ray starts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distgan.config import ConfigError, RunConfig, set_dotted, validate
from distgan.orchestration.tune.domain import SHORT, Domain, read_domain, value_of


@dataclass(frozen=True)
class Space:
    """A search space over a config."""

    config: RunConfig
    domains: dict[str, Domain] = field(default_factory=dict)

    @property
    def baseline(self) -> dict[str, Any]:
        """The values of the config as it is, by key."""
        return {key: value_of(self.config, key) for key in self.domains}

    def apply(self, values: Mapping[str, Any], *, baseline: bool = False) -> RunConfig:
        """The config with these values; with `baseline`, the config as it is (a short name can stand for values that
        differ).
        """
        if baseline:
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
        """Values of trial `index`: grids in order, the rest at random. Trial 0 is the baseline."""
        if index == 0:
            return self.baseline
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
            domains[key] = read_domain(str(key), text, config)
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
    if tune.searcher == "optuna" and tune.scheduler != "pbt":
        grids = [key for key, domain in domains.items() if domain.kind == "grid"]
        problems += [
            f"space.{key}.grid: optuna does not walk grids; use choice, or tune.searcher: random" for key in grids
        ]
    if not problems and space.grid_size > tune.num_samples - (not space.pure_grid):
        least = space.grid_size + (not space.pure_grid)
        problems.append(
            f"tune.num_samples = {tune.num_samples}: the grids have {space.grid_size} combinations; allowed: at least "
            f"{least}"
        )
    if not problems and tune.scheduler == "pbt":
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
    own, loss = value_of(config, "one_minus_beta2"), config.loss
    space: dict[str, Any] = {
        "g_lr": {"loguniform": [config.optim.g.lr / 8, min(4 * config.optim.g.lr, 10.0)]},
        "d_lr_ratio": {"choice": ratio},
        "beta1": {"choice": [0.0, 0.5]},
        "one_minus_beta2": {"loguniform": [min(forget[0], own / 4), max(forget[1], own)]},
    }
    # The baseline's penalty is strong enough for data that nobody has seen; what suits a given set better is mostly
    # weaker
    r1, r2 = loss.gammas
    weights = {"gamma": r1} if r1 and r2 else {"r1_gamma": r1, "r2_gamma": r2}
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
    return {**{key: more[key] for key in config.tune.also if not (key == "r1_gamma" and r1)}, **space}


# ---------------------------------------------------------------------------------------------------------------------
# Checks


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
    """What pbt needs: several trials, and values that can change during training."""
    tune, problems = space.config.tune, []
    if not any(d.continuous for d in space.domains.values()):
        example = "g_lr: {loguniform: [5.0e-5, 1.0e-3]}"
        problems.append(
            f"tune.scheduler = {tune.scheduler!r}: explores numbers, and the space has no range; add one, like "
            f"{example}"
        )
    if tune.num_samples < 2:
        problems.append(
            f"tune.num_samples = {tune.num_samples}: {tune.scheduler} needs a population; allowed: at least 2"
        )
    return problems
