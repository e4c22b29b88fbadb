"""The number of classes that at least one generated sample is taken for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgan.metrics.measures.base import Measure

if TYPE_CHECKING:
    from distgan.metrics.accumulators import Accumulator, Reference


def _compute(made: Accumulator, real: Reference) -> dict[str, float]:
    assert made.classes is not None
    return {"modes": made.classes.modes}


MEASURE = Measure({"modes": "higher"}, _compute, classifies=True)
