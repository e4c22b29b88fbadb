"""Generators and discriminators: one family a file, built from a `ModelConfig`.

Importing this package imports no torch; `build_generator`, `build_discriminator` and `try_out` are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distgan.models.check import allowed_resolutions, check_family, check_labels, check_models

if TYPE_CHECKING:
    from distgan.models.build import build_discriminator, build_generator, try_out

__all__ = [
    "allowed_resolutions",
    "build_discriminator",
    "build_generator",
    "check_family",
    "check_labels",
    "check_models",
    "try_out",
]


def __getattr__(name: str) -> Any:
    if name in ("build_discriminator", "build_generator", "try_out"):
        from distgan.models import build

        return getattr(build, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
