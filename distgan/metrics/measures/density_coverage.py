"""Density and coverage, from balls around the real samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgan.metrics.measures.base import Measure

if TYPE_CHECKING:
    from distgan.metrics.accumulators import Accumulator, Reference

K = 5  # neighbours, as in the paper


def _compute(made: Accumulator, real: Reference) -> dict[str, float]:
    from distgan.metrics.prdc import density_coverage, radii

    reach = real.once("radii 5", lambda: radii(real.features, K))
    density, coverage = density_coverage(made.features, real.features, K, reach)
    return {"density": density, "coverage": coverage}


MEASURE = Measure({"density": "higher", "coverage": "higher"}, _compute, pairs=True, least=K + 1)
