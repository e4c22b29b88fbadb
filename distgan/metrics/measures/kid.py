"""Kernel distance (KID), and its deviation between subsets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgan.metrics.measures.base import Measure

if TYPE_CHECKING:
    from distgan.metrics.accumulators import Accumulator, Reference


def _compute(made: Accumulator, real: Reference) -> dict[str, float]:
    from distgan.metrics.kid import kernel_distance, kernel_distance_subsets, kernel_sum

    among_real = real.once("kernel sum", lambda: kernel_sum(real.features))
    return {
        "kid": kernel_distance(made.features, real.features, among_real),
        "kid_std": kernel_distance_subsets(made.features, real.features, subsets=20)[1],
    }


MEASURE = Measure({"kid": "lower", "kid_std": None}, _compute, pairs=True)
