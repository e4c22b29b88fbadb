"""Things that are chosen by name, one module each: whoever adds a file to the package adds the name.

    LOSSES = Registry("distgan.gan.losses", "LOSS")
    LOSSES.names      ("hinge", "least-squares", ...)   from the file names, without importing any of them
    LOSSES["hinge"]   the attribute LOSS of distgan/gan/losses/hinge.py

Allowed values, help texts, checks and search spaces follow from `names`.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cached_property
from pathlib import Path
from typing import Any

from distgan.text import did_you_mean


class Registry:
    """The modules of a package, by name: least_squares.py is "least-squares". `base` and _private ones are none."""

    def __init__(self, package: str, attribute: str) -> None:
        """attribute: what a module calls the thing that it holds."""
        self.package, self.attribute = package, attribute

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All names, sorted. Imports the package itself and nothing in it."""
        spec = importlib.util.find_spec(self.package)
        assert spec is not None
        assert spec.submodule_search_locations
        stems = {
            entry.name.removesuffix(".py")
            for place in spec.submodule_search_locations
            for entry in Path(place).iterdir()
            if entry.suffix == ".py" or (entry / "__init__.py").is_file()
        }
        return tuple(sorted(stem.replace("_", "-") for stem in stems if not stem.startswith("_") and stem != "base"))

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Any:
        return iter(self.names)

    def __getitem__(self, name: str) -> Any:
        """The thing itself; KeyError says what there is."""
        if name not in self.names:
            raise KeyError(self.refusal(name))
        module = importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
        return getattr(module, self.attribute)

    def refusal(self, name: str) -> str:
        """Why `name` is none of them, for an error: "allowed: a, b, c; did you mean b?"."""
        return f"allowed: {', '.join(self.names)}{did_you_mean(name, self.names)}"


LOSSES = Registry("distgan.gan.losses", "LOSS")
NETWORKS = Registry("distgan.models.families", "FAMILY")
METRICS = Registry("distgan.metrics.measures", "MEASURE")
KINDS = Registry("distgan.kinds", "KIND")
EXTRACTORS = Registry("distgan.kinds.image.extractors", "EXTRACTOR")
DATA_SETS = Registry("distgan.kinds.image.sets", "SET")
LOG_WRITERS = Registry("distgan.training.writers", "WRITER")
