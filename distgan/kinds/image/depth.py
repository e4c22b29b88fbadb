"""What stored numbers mean. One scale holds for a whole set: image by image, dark ones would come out bright."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgan.kinds.image.image_set import Pixels

BITS = (8, 10, 12, 14, 16)
"""What cameras, scanners and microscopes give."""
SLACK = 1 / 8
"""Share of a range by which floats may lie outside of it: resizing with a sharp filter overshoots at edges."""
DARK = -0.501
"""Floats that do not reach below this are not taken for [-1, 1]; those around 0 often reach -0.5."""
DIM = 32
"""Floats of at most this are not taken for 0..255."""


@dataclass(frozen=True)
class Scale:
    """stored numbers -> 0..255, as (number + offset) * factor."""

    offset: float
    factor: float
    said: str = ""
    """What a person should know of it, "" where nothing was decided."""
    opacity: float = 255 / 65535
    """The factor of opacities in image files, which may have more bits than the colours beside them."""

    def apply(self, values: NDArray[Any]) -> Pixels:
        """The numbers as uint8, rounded to the nearest; what lies outside takes the nearest end."""
        numbers = values.astype(np.float64)
        scaled: Pixels = np.clip(np.rint((numbers + self.offset) * self.factor), 0, 255).astype(np.uint8)
        return scaled


@dataclass(frozen=True)
class Range:
    """The lowest and the highest number of a set, and whether its numbers are integers. NaN stays NaN. `opaque`: the
    highest opacity beside the colours of image files, 0 without.
    """

    low: float
    high: float
    whole: bool
    opaque: float = 0

    @classmethod
    def of(cls, values: NDArray[Any]) -> Range:
        return cls(float(values.min()), float(values.max()), values.dtype.kind in "iub")

    def __or__(self, other: Range) -> Range:
        return Range(
            float(np.minimum(self.low, other.low)),
            float(np.maximum(self.high, other.high)),
            self.whole and other.whole,
            max(self.opaque, other.opaque),
        )

    def scale(self) -> Scale:
        """The scale of numbers in this range. ValueError where none fits, or several would."""
        scale = self._of_integers() if self.whole else self._of_floats()
        return replace(scale, opacity=255 / (2 ** _bits(self.opaque) - 1)) if self.opaque else scale

    def _of_integers(self) -> Scale:
        if not (self.low >= 0 and self.high <= 65535):
            raise ValueError(
                f"whole numbers from {self.low:,.0f} to {self.high:,.0f} have no known meaning; allowed: 0 to 255, or "
                "up to 65,535"
            )
        if self.high == 0:
            return Scale(0, 1, "all numbers are 0")
        if self.high == 1:
            return Scale(0, 255, "numbers 0 and 1 are read as black and white")
        bits = _bits(self.high)
        said = f"numbers up to {self.high:,.0f} are read as {bits} bits"
        return Scale(0, 255 / (2**bits - 1), said)

    def _of_floats(self) -> Scale:
        for low, high in ((0, 1), (-1, 1)):
            slack = SLACK * (high - low)
            # A set of [-1, 1] has dark places; one that ends at -0.2 is [0, 1] after a sharp filter, or something else
            if self.low >= low - slack and self.high <= high + slack and (low == 0 or self.low < DARK):
                return Scale(-low, 255 / (high - low), self._said(low, high))
        for bits in BITS:
            top = 2**bits - 1
            if self.low >= -SLACK * top and DIM < self.high <= (1 + SLACK) * top:
                return Scale(0, 255 / top, self._said(0, top))
        if np.isnan(self.low) or np.isinf(self.low) or np.isinf(self.high):
            raise ValueError("NaN or infinity; allowed: floats in [0, 1], [-1, 1] or [0, 255]")
        if DARK <= self.low < 0 and self.high < 1 - DARK:
            raise ValueError(
                f"floats from {self.low:g} to {self.high:g}, which is neither [0, 1] nor [-1, 1]; clip what lies "
                "outside (values.clip(0, 1)), or undo what was subtracted (values + 0.5)"
            )
        raise ValueError(
            f"floats from {self.low:g} to {self.high:g}; allowed: [0, 1], [-1, 1] or [0, 255], or uint8 (undo a "
            "standardisation: values * std + mean)"
        )

    def _said(self, low: float, high: float) -> str:
        read = f"floats from {self.low:g} to {self.high:g} are read as [{low:g}, {high:g}]"
        outside = self.low < low - 1e-6 or self.high > high + 1e-6
        if self.high < SLACK * high:
            return f"{read}, so that the images are dark"
        return f"{read}; what lies outside is clipped" if outside else (read if high > 1 else "")


def _bits(highest: float) -> int:
    return next(bits for bits in BITS if highest < 2**bits)
