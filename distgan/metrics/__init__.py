"""Measures of generated samples against real ones, exact under any number of workers."""

from distgan.metrics.class_statistics import ClassStatistics
from distgan.metrics.collective import Collective, SingleProcess, TorchDistributed
from distgan.metrics.evaluator import Evaluator, RealImages, evaluate_images
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
    "RealImages",
    "SingleProcess",
    "TorchDistributed",
    "density_coverage",
    "evaluate_images",
    "frechet_distance",
    "kernel_distance",
    "kernel_distance_subsets",
    "precision_recall",
]
