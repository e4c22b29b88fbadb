"""Measures of generated samples against real ones, exact under any number of workers.

Importing this package imports no torch; what it holds is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distgan.metrics.class_statistics import ClassStatistics
    from distgan.metrics.collective import Collective, SingleProcess, TorchDistributed
    from distgan.metrics.evaluator import Evaluator, evaluate_samples
    from distgan.metrics.extractor import Extractor
    from distgan.metrics.kid import kernel_distance, kernel_distance_subsets
    from distgan.metrics.moments import Moments, frechet_distance
    from distgan.metrics.prdc import density_coverage, precision_recall

__all__ = [
    "ClassStatistics",
    "Collective",
    "Evaluator",
    "Extractor",
    "Moments",
    "SingleProcess",
    "TorchDistributed",
    "density_coverage",
    "evaluate_samples",
    "frechet_distance",
    "kernel_distance",
    "kernel_distance_subsets",
    "precision_recall",
]

_PLACES = {
    "class_statistics": ("ClassStatistics",),
    "collective": ("Collective", "SingleProcess", "TorchDistributed"),
    "evaluator": ("Evaluator", "evaluate_samples"),
    "extractor": ("Extractor",),
    "kid": ("kernel_distance", "kernel_distance_subsets"),
    "moments": ("Moments", "frechet_distance"),
    "prdc": ("density_coverage", "precision_recall"),
}


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
