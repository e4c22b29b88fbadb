"""How far the classes of generated samples are from those of real ones: KL(generated || real) in nats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgan.metrics.measures.base import Measure

if TYPE_CHECKING:
    from distgan.metrics.accumulators import Accumulator, Reference


def _compute(made: Accumulator, real: Reference) -> dict[str, float]:
    assert made.classes is not None
    assert real.classes is not None
    return {"class_kl": made.classes.kl(real.classes.histogram)}


MEASURE = Measure({"class_kl": "lower"}, _compute, classifies=True, unasked=True)
