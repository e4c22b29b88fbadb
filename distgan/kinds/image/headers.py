"""Which files are images: by their usual endings, else by their first bytes."""

from __future__ import annotations

import warnings
from functools import cache
from typing import IO

SUFFIXES = frozenset(
    f".{kind}"
    for kind in ("png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "pnm")
    + ("tga", "pcx", "ico", "jp2", "j2k", "avif", "heic", "heif")
)
# TIFF by their first bytes, but what Pillow sees in them is the thumbnail.
CAMERA_RAW = frozenset(f".{kind}" for kind in ("dng", "nef", "nrw", "cr2", "arw", "orf", "pef", "rw2", "srw", "3fr"))
# Formats of pictures that first bytes tell for certain. Not EPS, whose decoder runs a program, nor other page formats.
TOLD_BY_CONTENT = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "QOI", "DDS", "PSD")
# These have no such mark, or a short one that other files may begin with.
TOLD_BY_SUFFIX = ("TGA", "PCX", "ICO")


@cache
def readable_formats() -> tuple[str, ...]:
    """All formats that image files are read in, as this Pillow has them, by the names that `Image.open` knows."""
    return _here((*TOLD_BY_CONTENT, *TOLD_BY_SUFFIX))


def looks_like_image(stream: IO[bytes]) -> bool:
    """Whether a file begins like an image. Reads its header alone."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, and of sizes, which are checked when it is decoded
        try:
            Image.open(stream, formats=_told_by_content()).close()
        except Image.DecompressionBombError:
            return True
        except Exception:  # Pillow's readers raise many kinds for what is no image, or a damaged one
            return False
    return True


@cache
def _told_by_content() -> tuple[str, ...]:
    return _here(TOLD_BY_CONTENT)


def _here(formats: tuple[str, ...]) -> tuple[str, ...]:
    from PIL import Image

    known = set(Image.registered_extensions().values())
    return tuple(name for name in formats if name in known)
