"""What a sample is: one folder a kind (registry.KINDS), and data.kind says which. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from numpy.typing import NDArray

from distgan.config import ConfigError, DataConfig, RunConfig, get_dotted
from distgan.kinds.base import Kind, Progress, SampleSet, SampleSpec
from distgan.registry import KINDS, by_path, refusal

__all__ = [
    "Kind",
    "SampleSet",
    "SampleSpec",
    "as_written",
    "describe",
    "find_kind",
    "get_kind",
    "kind_name",
    "open_samples",
    "settled",
    "undecided",
    "with_recipe",
    "with_values",
]

SETTLED = ("loss.r1_gamma", "loss.r2_gamma", "augment.kind")
"""Settings that may be `auto` until the samples are open."""
DEFAULT = "image"
"""What data is taken for that no other kind claims."""


def get_kind(config: DataConfig) -> Kind:
    """The kind of sample that `config` means. Raises ConfigError."""
    if config.kind != "auto":
        return find_kind(config.kind)
    others = (name for name in KINDS if name != DEFAULT)
    return find_kind(next((name for name in others if find_kind(name).claims(config.name)), DEFAULT))


def find_kind(name: str) -> Kind:
    """A kind by its registered name, or by package.module:NAME. Raises ConfigError."""
    if name in KINDS:
        return cast("Kind", KINDS[name])
    own = "package.module:NAME"
    if ":" not in name:
        raise ConfigError(f"data.kind = {name!r}: {refusal(name, KINDS, own)}")
    try:
        found = by_path(name)
    except Exception as error:  # importing runs whatever the user wrote
        raise ConfigError(
            f"data.kind = {name!r}: cannot be imported ({type(error).__name__}: {error}); it must be {own}, importable "
            "from the working folder or installed, on every machine of the cluster"
        ) from error
    missing = [part for part in _members() if not hasattr(found, part)]
    if isinstance(found, type) or missing:
        what = "is a class: give an object of it" if isinstance(found, type) else f"has no {', '.join(missing)}"
        raise ConfigError(f"data.kind = {name!r}: {what}; expected an object with all of distgan.kinds.base.Kind")
    return cast("Kind", found)


def kind_name(config: DataConfig) -> str:
    """What `find_kind` finds the kind of `config` by, wherever it is asked."""
    return config.kind if config.kind != "auto" else get_kind(config).name


def describe(config: DataConfig) -> SampleSpec:
    """What can be said of the samples without decoding or downloading them. Raises ConfigError for mistakes that show
    already.
    """
    return get_kind(config).describe(config)


def open_samples(config: DataConfig, *, progress: Progress | None = None) -> SampleSet:
    """The real samples that `config` means. Raises ConfigError for whatever is wrong with the data or the settings."""
    return get_kind(config).open(config, progress)


def with_recipe(config: RunConfig, spec: SampleSpec | None = None) -> RunConfig:
    """The same run with the recipe of its data in place of defaults; what was given stays.

    spec: of the data, where it is known already. A description that was written out is taken as given throughout, so
    that a run stays what it was. Raises ConfigError.
    """
    kind = get_kind(config.data)
    recipe = kind.recipe(config, spec or kind.describe(config.data))
    return with_values(config, recipe)


def settled(config: RunConfig, samples: SampleSet) -> tuple[RunConfig, dict[str, Any]]:
    """The same run with a value for each setting that is `auto` until the samples are open, and what was decided,
    dotted name -> value.
    """
    open_ones = undecided(config)
    if not open_ones:
        return config, {}
    found = get_kind(config.data).decide(config, samples)
    found = {name: value for name, value in found.items() if name not in SETTLED or name in open_ones}
    made = with_values(config, found)
    return made, {name: value for name, value in found.items() if get_dotted(made, name) != get_dotted(config, name)}


def undecided(config: RunConfig) -> list[str]:
    """The settings that are `auto` until the samples are open."""
    return [name for name in SETTLED if get_dotted(config, name) == "auto"]


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The same run with these values, by dotted name, in place of `auto` and of defaults; what was given stays."""
    for dotted, value in values.items():
        config = _with_default(config, dotted.split("."), value)
    return config


def _with_default(section: Any, path: list[str], value: Any) -> Any:
    """A copy of a section with one setting changed, unless that was given."""
    name, *rest = path
    if rest:
        return section.model_copy(update={name: _with_default(getattr(section, name), rest, value)})
    given = name in section.model_fields_set and getattr(section, name) != "auto"
    return section if given else section.model_copy(update={name: value})


def as_written(kind: Kind, stored: NDArray[Any]) -> NDArray[Any]:
    """Stored samples (N, ...) as files hold them: a kind where the two differ has a method of this name."""
    change = getattr(kind, "as_written", None)
    return cast("NDArray[Any]", change(stored)) if change is not None else stored


def _members() -> Mapping[str, Any]:
    """What a kind has: names and methods of the protocol."""
    methods = {name: value for name, value in vars(Kind).items() if callable(value) and not name.startswith("_")}
    return {**Kind.__annotations__, **methods}
