"""Where real images come from: known sets, folders, zip archives and arrays, all ending in uint8 tensors (N, C, H, W).

Importing this package imports no torch, which the drivers of clusters do without; `Feed` is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distgan.kinds.image.image_set import DataSpec, ImageSet, Progress
from distgan.kinds.image.sources import describe, is_known, open_images

if TYPE_CHECKING:
    from distgan.kinds.loader import Feed

__all__ = ["DataSpec", "Feed", "ImageSet", "Progress", "describe", "is_known", "open_images"]


def __getattr__(name: str) -> Any:
    if name == "Feed":
        from distgan.kinds.loader import Feed

        return Feed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
