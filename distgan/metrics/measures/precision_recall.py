"""Precision and recall, from balls around each side's samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgan.metrics.measures.base import Measure

if TYPE_CHECKING:
    from distgan.metrics.accumulators import Accumulator, Reference

K = 3  # neighbours, as in the paper


def _compute(made: Accumulator, real: Reference) -> dict[str, float]:
    from distgan.metrics.prdc import precision_recall, radii

    reach = real.once("radii 3", lambda: radii(real.features, K))
    precision, recall = precision_recall(made.features, real.features, K, reach)
    return {"precision": precision, "recall": recall}


MEASURE = Measure({"precision": "higher", "recall": "higher"}, _compute, pairs=True, least=K + 1)
