"""Measures of generated images against real ones, exact under any number of workers."""

from .classify import ClassStatistics
from .collective import Collective, SingleProcess, TorchDistributed
from .extractors import Extractor, get_extractor
from .kid import kernel_distance, kernel_distance_subsets
from .manifold import density_coverage, precision_recall
from .moments import Moments, frechet_distance

__all__ = [
    "ClassStatistics",
    "Collective",
    "Extractor",
    "Moments",
    "SingleProcess",
    "TorchDistributed",
    "density_coverage",
    "frechet_distance",
    "get_extractor",
    "kernel_distance",
    "kernel_distance_subsets",
    "precision_recall",
]
