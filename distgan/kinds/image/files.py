"""The image files of a folder. `archives.py` finds those of a .zip, and both give the same."""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from distgan.config import ConfigError
from distgan.kinds.base import some
from distgan.kinds.image.headers import CAMERA_RAW, SUFFIXES, looks_like_image
from distgan.kinds.image.stamps import stamp

INDEX = "dataset.json"  # names the classes of the images beside and below it, see dataset_json.py
# What systems leave in folders, in lower case; so does whatever begins with a dot.
JUNK = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "#recycle", "@recycle"))
JUNK |= {"$recycle.bin", "system volume information", "lost+found"}


@dataclass(frozen=True)
class Entry:
    """One file. `stamp` begins with the size in bytes and changes when the content does."""

    name: str
    """Path inside the folder or archive, with forward slashes."""
    stamp: tuple[int, ...]
    member: int = 0
    """Position in the archive's directory, where several members may have one name."""


@dataclass
class Found:
    """What lies in a folder or archive."""

    entries: list[Entry] = field(default_factory=list)
    """Image files."""
    indexes: list[Entry] = field(default_factory=list)
    """Files dataset.json."""
    folders: set[str] = field(default_factory=set)
    """All folders inside, by their paths."""
    by_content: Counter[str] = field(default_factory=Counter)
    """How many of the images have an ending that says nothing, by ending."""
    others: Counter[str] = field(default_factory=Counter)
    """How many files were passed over, by ending."""
    examples: list[str] = field(default_factory=list)
    """The names of the first few of these."""
    remarks: list[str] = field(default_factory=list)

    def pass_over(self, name: str, what: str = "") -> None:
        """Count a file that holds no image."""
        self.others[what or _ending(name)] += 1
        if len(self.examples) < 3:
            self.examples.append(name)

    def note_folders(self, name: str) -> None:
        """The folders on the way to a file; a folder's own name ends in a slash."""
        while (name := name.rpartition("/")[0]) and name not in self.folders:
            self.folders.add(name)

    def take(self, entry: Entry) -> None:
        """A file that is an image though its ending does not say so."""
        self.entries.append(entry)
        self.by_content[_ending(entry.name)] += 1

    @property
    def notes(self) -> list[str]:
        """What a person should know of the choice of files."""
        notes = list(self.remarks)
        if self.by_content:
            count, total = self.by_content.total(), len(self.entries)
            notes.append(
                f"{count:,} of {total:,} images are known by their content alone ({_counted(self.by_content)})"
            )
        if self.others:
            total = self.others.total()
            what = "file that holds" if total == 1 else "files that hold"
            names = ", ".join([*self.examples, *(["..."] if total > len(self.examples) else [])])
            notes.append(f"passed over: {total:,} {what} no image ({_counted(self.others)}: {names})")
        return notes


class FolderReader:
    """Files below a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not os.access(path, os.R_OK | os.X_OK):
            raise ConfigError(
                f"data.name = {path}: this user may not read the folder; change its permissions or choose another"
            )

    def find(self) -> Found:
        """What lies below the folder. Files with an image's ending are not opened."""
        found = Found()
        seen: set[str] = set()
        again: list[str] = []
        closed: list[str] = []
        for folder, below, files in os.walk(
            self.path, followlinks=True, onerror=lambda error: closed.append(str(error.filename))
        ):
            inside = "" if folder == str(self.path) else PurePosixPath(os.path.relpath(folder, self.path)).as_posix()
            real = os.path.realpath(folder)
            if real in seen:  # a link to what is read already, in the worst case back up
                below.clear()
                again.append(inside)
                continue
            seen.add(real)
            found.note_folders(f"{inside}/" if inside else "")
            below[:] = sorted(name for name in below if not is_junk(name))
            for name in sorted(files):
                if not is_junk(name):
                    self._sort(f"{inside}/{name}" if inside else name, os.path.join(folder, name), found)
        if again:
            found.remarks.append(f"folders that are links to what is read already, and left out: {some(again)}")
        if closed:
            found.remarks.append(f"folders that this user may not read, and left out: {some(closed)}")
        return found

    def place(self) -> list[object]:
        """Where this is, for the cache."""
        return [os.path.realpath(self.path)]

    def read(self, entry: Entry) -> bytes:
        """A file's bytes."""
        return (self.path / entry.name).read_bytes()

    def close(self) -> None:
        """Nothing is held open."""

    def _sort(self, inside: str, file: str, found: Found) -> None:
        usual = has_usual_suffix(inside)
        try:
            status = os.stat(file)
        except OSError:  # a dangling link
            if usual:
                found.entries.append(Entry(inside, (-1, 0)))  # counted as unreadable when it is decoded
            else:
                found.pass_over(inside, "broken links")
            return
        entry = Entry(inside, stamp(status))
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            found.pass_over(inside, "pipes, sockets or devices")
        elif usual:
            found.entries.append(entry)
        elif is_index(inside):
            found.indexes.append(entry)
        elif may_be_image(inside, status.st_size):
            try:
                with open(file, "rb") as stream:
                    image = looks_like_image(stream)
            except OSError:
                found.pass_over(inside, "that this user may not read")
                return
            if image:
                found.take(entry)
            else:
                found.pass_over(inside)
        else:
            found.pass_over(inside)


def has_usual_suffix(name: str) -> bool:
    """Whether a file is taken for an image without a look."""
    return _suffix(name) in SUFFIXES


def is_index(name: str) -> bool:
    """Whether a file may name the classes of images."""
    return name.rpartition("/")[2] == INDEX


def may_be_image(name: str, size: int) -> bool:
    """Whether a file with another ending is worth a look."""
    return size > 0 and _suffix(name) not in CAMERA_RAW


def is_junk(part: str) -> bool:
    """Whether a file or folder of this name is left out without a word."""
    return part.startswith(".") or part.lower() in JUNK


def _suffix(name: str) -> str:
    base = name.rpartition("/")[2]
    return os.path.splitext(base)[1].lower()


def _ending(name: str) -> str:
    return _suffix(name) or "without suffix"


def _counted(kinds: Counter[str]) -> str:
    return some([f"{count:,} {kind}" for kind, count in kinds.most_common()])
