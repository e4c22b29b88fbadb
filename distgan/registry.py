"""Things that are chosen by name, one module each: whoever adds a file to the package adds the name.

    LOSSES = Registry("distgan.gan.losses", "LOSS")
    LOSSES.names      ("hinge", "least-squares", ...)   from the file names, without importing any of them
    LOSSES["hinge"]   the attribute LOSS of distgan/gan/losses/hinge.py

Allowed values, help texts, checks and search spaces follow from `names`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from distgan.text import did_you_mean


class Registry:
    """The modules of a package, by name: least_squares.py is "least-squares". `base` and names with an underscore in
    front are none.
    """

    def __init__(self, package: str, attribute: str, *, folders: bool = False) -> None:
        """attribute: what a module calls the thing that it holds. folders: each is a folder; single files are none."""
        self.package, self.attribute, self.folders = package, attribute, folders
        self._held: dict[str, Any] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted. Imports nothing."""
        stems = {
            entry.name.removesuffix(".py")
            for place in self._places()
            for entry in place.iterdir()
            if (entry.suffix == ".py" and not self.folders) or (entry / "__init__.py").is_file()
        }
        return tuple(sorted(stem.replace("_", "-") for stem in stems if not stem.startswith("_") and stem != "base"))

    def _places(self) -> Iterable[Path]:
        """The package's folders: where it is imported those that Python looks in, else the one that it lies in."""
        if self.package in sys.modules:
            return map(Path, sys.modules[self.package].__path__)
        return (Path(__file__).parent.joinpath(*self.package.split(".")[1:]),)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, name: str) -> Any:
        """The thing itself; KeyError says what there is."""
        if name not in self._held:
            if name not in self.names:
                raise KeyError(self.refusal(name))
            module = importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
            self._held[name] = getattr(module, self.attribute)
        return self._held[name]

    def refusal(self, name: str) -> str:
        """Why `name` is none of them, for an error: "allowed: a, b, c; did you mean b?"."""
        return refusal(name, self.names)


def refusal(name: str, allowed: Iterable[str], own: str = "") -> str:
    """Why `name` is none of what is allowed, for an error: "allowed: a, b, c; did you mean b?". own: what else may be
    written, in words.
    """
    choices = list(allowed)
    shown = ", ".join([*choices, own] if own else choices)
    return f"allowed: {shown}{did_you_mean(name, choices)}"


def objectives(direction: str = "") -> dict[str, str]:
    """Numbers that a run can be judged by: key -> the metric that gives it. direction: only those where "lower" or
    "higher" is better.
    """
    return {
        key: name
        for name in METRICS
        for key, better in METRICS[name].keys.items()
        if better is not None and direction in ("", better)
    }


def by_path(path: str) -> Any:
    """What is at package.module:NAME; the working folder counts, as it does for `python file.py`.

    Raises AttributeError where the module has no such name, and whatever importing it raises.
    """
    module, _, name = path.partition(":")
    look_in(os.getcwd())
    return getattr(importlib.import_module(module), name)


def look_in(folder: str) -> None:
    """Modules are found in this folder too: last, so that no file there takes the name of a package."""
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)


LOSSES = Registry("distgan.gan.losses", "LOSS")
NETWORKS = Registry("distgan.models.families", "FAMILY")
METRICS = Registry("distgan.metrics.measures", "MEASURE")
KINDS = Registry("distgan.kinds", "KIND", folders=True)
EXTRACTORS = Registry("distgan.kinds.image.extractors", "EXTRACTOR")
DATA_SETS = Registry("distgan.kinds.image.sets", "SET")
LOG_WRITERS = Registry("distgan.training.writers", "WRITER")
