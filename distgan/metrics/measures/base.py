"""What a metric is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from distgan.metrics.accumulators import Accumulator, Reference


@dataclass(frozen=True)
class Measure:
    """A comparison of generated samples with real ones, by what one pass over each side leaves behind."""

    keys: dict[str, Literal["lower", "higher"] | None]
    """The numbers that it gives, and which are better; None for one that says nothing alone, such as a deviation."""
    compute: Callable[[Accumulator, Reference], dict[str, float]]
    """(generated, real) -> a value for each key."""
    classifies: bool = False
    """Whether the extractor must be a classifier: `classes` of both sides is there."""
    pairs: bool = False
    """Whether samples are compared one by one: `features` of both sides are there."""
    least: int = 2
    """Samples that it needs on each side."""
    unasked: bool = False
    """Whether it is measured wherever it can be, asked for or not."""
