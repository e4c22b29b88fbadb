"""Measures of generated images against real ones, exact under any number of workers."""

from .classify import ClassStatistics
from .collective import Collective, SingleProcess, TorchDistributed
from .evaluate import Evaluator, RealImages, evaluate_images
from .extractors import Extractor, get_extractor
from .kid import kernel_distance, kernel_distance_subsets
from .manifold import density_coverage, precision_recall
from .moments import Moments, frechet_distance

__all__ = [
    "ClassStatistics",
    "Collective",
    "Evaluator",
    "Extractor",
    "Moments",
    "RealImages",
    "SingleProcess",
    "TorchDistributed",
    "density_coverage",
    "evaluate_images",
    "frechet_distance",
    "get_extractor",
    "kernel_distance",
    "kernel_distance_subsets",
    "precision_recall",
]
