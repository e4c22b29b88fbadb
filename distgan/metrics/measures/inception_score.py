"""Inception Score, of whatever classifier the extractor is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgan.metrics.measures.base import Measure

if TYPE_CHECKING:
    from distgan.metrics.accumulators import Accumulator, Reference


def _compute(made: Accumulator, real: Reference) -> dict[str, float]:
    assert made.classes is not None
    return {"inception_score": made.classes.inception_score}


MEASURE = Measure({"inception_score": "higher"}, _compute, classifies=True)
