"""Frechet distance (FID)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgan.metrics.measures.base import Measure

if TYPE_CHECKING:
    from distgan.metrics.accumulators import Accumulator, Reference


def _compute(made: Accumulator, real: Reference) -> dict[str, float]:
    from distgan.metrics.moments import frechet_distance

    return {"fid": frechet_distance(made.moments, real.moments)}


MEASURE = Measure({"fid": "lower"}, _compute)
