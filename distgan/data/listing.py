"""The image files of a folder or a .zip archive, with their classes, in an order that both give alike."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from distgan.config import ConfigError

SUFFIXES = (
    ".png .jpg .jpeg .jpe .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .tga .pcx .ico .jp2 .j2k .avif .heic .heif".split()
)  # fmt: skip
PARTS = {"train", "training", "test", "testing", "val", "valid", "validation"}
MEMBER_BYTES = 1 << 29  # an archive's member that claims to be larger than this is not read


@dataclass(frozen=True)
class Entry:
    """One image file. `stamp` changes when the file's content does."""

    name: str  # path inside the folder or archive, with forward slashes
    stamp: tuple[int, ...]


@dataclass(frozen=True)
class Listing:
    """Image files and the classes that their sub-folders make. `label_of[i]` belongs to `entries[i]`; None without classes."""

    entries: list[Entry]
    label_of: list[int] | None
    classes: tuple[str, ...]


class FolderReader:
    """Files below a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> tuple[list[Entry], Counter[str]]:
        """The image files, and how many files of each other type were passed over."""
        found: list[Entry] = []
        others: Counter[str] = Counter()
        seen: set[str] = set()
        for folder, below, files in os.walk(self.path, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link that leads back up
                below.clear()
                continue
            seen.add(real)
            below[:] = sorted(name for name in below if not _hidden(name))
            for name in files:
                file = Path(folder, name)
                inside = file.relative_to(self.path).as_posix()
                if _wanted(inside, others):
                    try:
                        status = file.stat()
                        found.append(Entry(inside, (status.st_size, status.st_mtime_ns)))
                    except OSError:  # a dangling link; counted as unreadable when it is decoded
                        found.append(Entry(inside, (-1, 0)))
        return found, others

    def read(self, entry: Entry) -> bytes:
        """A file's bytes."""
        return (self.path / entry.name).read_bytes()

    def close(self) -> None:
        """Nothing is held open."""


class ZipReader:
    """Members of a .zip archive, read in place. Reading is safe from several threads."""

    def __init__(self, path: Path) -> None:
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise ConfigError(f"data.name = {path}: not a readable .zip archive ({error}); allowed: a folder, .zip, .npy or .npz") from None

    def entries(self) -> tuple[list[Entry], Counter[str]]:
        """The image files, and how many files of each other type were passed over."""
        others: Counter[str] = Counter()
        members = [info for info in self.archive.infolist() if not info.is_dir() and _wanted(info.filename, others)]
        return [Entry(info.filename, (info.file_size, info.CRC)) for info in members], others

    def read(self, entry: Entry) -> bytes:
        """A member's bytes."""
        if entry.stamp[0] > MEMBER_BYTES:
            raise ValueError(f"{entry.stamp[0]} bytes when unpacked")
        return self.archive.read(entry.name)

    def close(self) -> None:
        """Close the archive."""
        self.archive.close()


def arrange(entries: list[Entry], split: str) -> Listing:
    """Order and classes of image files.

    Folders that hold everything are passed through. Sub-folders train, test and the like are parts to choose from by
    data.split. Then at least two sub-folders and no image beside them make classes. With classes the order takes one file of
    each in turn, so that the first so many images (data.limit) show them all.
    """
    paths = [PurePosixPath(entry.name).parts for entry in entries]
    paths, depth = _below_common(paths)
    tops = {path[0] for path in paths if len(path) > 1}
    chosen = list(range(len(paths)))
    if len(tops) > 1 and {top.lower() for top in tops} <= PARTS and all(len(path) > 1 for path in paths):
        if split in {top.lower() for top in tops}:
            chosen = [i for i in chosen if paths[i][0].lower() == split]
        elif split != "all":
            raise ConfigError(
                f"data.split = {split!r}: the data have only the parts {', '.join(sorted(tops))}; allowed: one of train, test, all"
            )
        kept, _ = _below_common([paths[i][1:] for i in chosen]) if split != "all" else ([paths[i][1:] for i in chosen], 0)
        for i, path in zip(chosen, kept, strict=True):
            paths[i] = path
    elif split not in ("train", "all"):
        raise ConfigError(
            f"data.split = {split!r}: the data have no sub-folder {split}; leave data.split out, or point data.name at the part you want"
        )
    names = sorted({paths[i][0] for i in chosen if len(paths[i]) > 1})
    if len(names) < 2 or any(len(paths[i]) == 1 for i in chosen):
        return Listing([entries[i] for i in sorted(chosen, key=lambda i: paths[i])], None, ())
    number = {name: k for k, name in enumerate(names)}
    turn: Counter[str] = Counter()
    order = []
    for i in sorted(chosen, key=lambda i: paths[i]):
        order.append((turn[paths[i][0]], number[paths[i][0]], i))
        turn[paths[i][0]] += 1
    order.sort()
    return Listing([entries[i] for _, _, i in order], [label for _, label, _ in order], tuple(names))


def _below_common(paths: list[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], int]:
    """Paths without the folders that all of them share, and how many those were."""
    depth = 0
    while paths and all(len(path) > depth + 1 and path[depth] == paths[0][depth] for path in paths):
        depth += 1
    return [path[depth:] for path in paths], depth


def _hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


def _wanted(name: str, others: Counter[str]) -> bool:
    path = PurePosixPath(name)
    if any(_hidden(part) for part in path.parts):
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    others[path.suffix.lower() or "no suffix"] += 1
    return False
