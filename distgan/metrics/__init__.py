"""Measures of generated images against real ones, exact under any number of workers."""

from distgan.metrics.classify import ClassStatistics
from distgan.metrics.collective import Collective, SingleProcess, TorchDistributed
from distgan.metrics.evaluate import Evaluator, RealImages, evaluate_images
from distgan.metrics.extractors import Extractor, get_extractor
from distgan.metrics.kid import kernel_distance, kernel_distance_subsets
from distgan.metrics.manifold import density_coverage, precision_recall
from distgan.metrics.moments import Moments, frechet_distance

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
