"""The image files of a folder or a .zip archive, with their classes, in an order that both give alike."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from distgan.config import ConfigError

SUFFIXES = frozenset(
    f".{kind}"
    for kind in ("png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "pnm")
    + ("tga", "pcx", "ico", "jp2", "j2k", "avif", "heic", "heif")
)
PARTS = {"train", "test", "val", "valid", "validation"}
MEMBER_BYTES = 1 << 29  # an archive's member that claims to be larger than this is not read


@dataclass(frozen=True)
class Entry:
    """One image file. `stamp` changes when the file's content does."""

    name: str  # path inside the folder or archive, with forward slashes
    stamp: tuple[int, ...]


@dataclass(frozen=True)
class Listing:
    """Image files and the classes that their sub-folders make. `label_of[i]` belongs to `entries[i]`; None without
    classes.
    """

    entries: list[Entry]
    label_of: list[int] | None
    classes: tuple[str, ...]


class FolderReader:
    """Files below a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not os.access(path, os.R_OK | os.X_OK):
            raise ConfigError(
                f"data.name = {path}: this user may not read the folder; change its permissions or choose another"
            )

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
            raise ConfigError(
                f"data.name = {path}: not a readable .zip archive ({error}); allowed: a folder, .zip, .npy or .npz"
            ) from None

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
    data.split. Then at least two sub-folders and no image beside them make classes. With classes the order takes one
    file of each in turn, so that the first so many images (data.limit) show them all.
    """
    paths = _below_common([PurePosixPath(entry.name).parts for entry in entries])
    pairs = list(zip(paths, entries, strict=True))
    tops = {path[0].lower() for path in paths if len(path) > 1}
    if len(tops) > 1 and tops <= PARTS and all(len(path) > 1 for path in paths):
        if split not in (*tops, "all"):
            raise ConfigError(
                f"data.split = {split!r}: the data have the parts {', '.join(sorted(tops))}; allowed: train or test of "
                "them, or all"
            )
        pairs = [(path[1:], entry) for path, entry in pairs if split in ("all", path[0].lower())]
        if split != "all":
            pairs = list(zip(_below_common([path for path, _ in pairs]), [entry for _, entry in pairs], strict=True))
    elif split not in ("train", "all"):
        raise ConfigError(
            f"data.split = {split!r}: the data have no sub-folders train and test; point data.name at the part you want"
        )
    pairs.sort(key=lambda pair: (pair[0], pair[1].name))
    classes = tuple(sorted({path[0] for path, _ in pairs if len(path) > 1}))
    if len(classes) < 2 or any(len(path) == 1 for path, _ in pairs):
        return Listing([entry for _, entry in pairs], None, ())
    number = {name: label for label, name in enumerate(classes)}
    turn: Counter[int] = Counter()
    dealt = []
    for path, entry in pairs:
        label = number[path[0]]
        dealt.append((turn[label], label, entry))
        turn[label] += 1
    dealt.sort(key=lambda item: item[:2])
    return Listing([entry for _, _, entry in dealt], [label for _, label, _ in dealt], classes)


def _below_common(paths: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Paths without the folders that all of them share."""
    depth = 0
    while paths and all(len(path) > depth + 1 and path[depth] == paths[0][depth] for path in paths):
        depth += 1
    return [path[depth:] for path in paths]


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
