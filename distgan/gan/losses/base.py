"""What a loss is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Loss(NamedTuple):
    """What each player minimises, as functions (real (N,), fake (N,)) -> scalar."""

    d: Callable[[Tensor, Tensor], Tensor]
    g: Callable[[Tensor, Tensor], Tensor]
    pairs: bool = False
    """Whether the i-th real sample is compared with the i-th generated one, so that the generator's loss looks at
    real ones too, and a pair has one label.
    """
