"""Where real images come from: known sets, folders, zip archives and arrays, all ending in uint8 tensors (N, C, H, W)."""

from distgan.data.feed import Feed
from distgan.data.images import DataSpec, ImageSet, Progress
from distgan.data.sources import describe, is_known, open_images

__all__ = ["DataSpec", "Feed", "ImageSet", "Progress", "describe", "is_known", "open_images"]
