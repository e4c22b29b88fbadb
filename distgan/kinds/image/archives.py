"""The image files of a .zip archive, in the many ways that such archives are written."""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from distgan.config import ConfigError
from distgan.kinds.base import some
from distgan.kinds.image.files import Entry, Found, has_usual_suffix, is_index, is_junk, may_be_image
from distgan.kinds.image.headers import looks_like_image
from distgan.kinds.image.stamps import identity

MEMBER_BYTES = 1 << 29  # a member that claims to be larger than this is not read
ENCRYPTED, UTF8 = 0x1, 0x800  # bits of a member's flags
DOS_FOLDER = 0x10  # bit of its attributes
UNICODE_PATH = 0x7075  # APPNOTE.TXT, 4.6.9


class ZipReader:
    """Members of a .zip archive, read in place. Reading is safe from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
        except Exception as error:  # besides BadZipFile: what damaged numbers and names make of struct and codecs
            raise ConfigError(
                f"data.name = {path}: not a readable .zip archive ({error}); allowed: a folder, .zip, .npy or .npz"
            ) from None
        self.members = self.archive.infolist()

    def find(self) -> Found:
        """What lies in the archive. Members with an image's ending are not opened."""
        found = Found()
        names: set[str] = set()
        twice: list[str] = []
        locked: list[str] = []
        for number, info in enumerate(self.members):
            name, is_folder = inside(info)
            if not name or any(is_junk(part) for part in name.split("/")):
                continue
            found.note_folders(f"{name}/" if is_folder else name)
            if is_folder:
                continue
            if name in names:
                twice.append(name)
            names.add(name)
            if info.flag_bits & ENCRYPTED:
                locked.append(name)
                continue
            self._sort(Entry(name, (info.file_size, info.CRC), number), info, found)
        if locked:
            raise ConfigError(
                f"data.name = {self.path}: {len(locked):,} of {len(names):,} files in the archive are encrypted "
                f"({some(locked, 3)}); unpack it with its password and give the folder"
            )
        if twice:
            found.remarks.append(
                f"in the archive {len(twice):,} times a file has the name of one before; all are used: {some(twice, 3)}"
            )
        return found

    def place(self) -> list[object]:
        """Where this is, for the cache."""
        return list(identity(self.path))

    def read(self, entry: Entry) -> bytes:
        """A member's bytes."""
        if entry.stamp[0] > MEMBER_BYTES:
            raise ValueError(f"{entry.stamp[0]} bytes when unpacked")
        return self.archive.read(self.members[entry.member])

    def close(self) -> None:
        """Close the archive."""
        self.archive.close()

    def _sort(self, entry: Entry, info: zipfile.ZipInfo, found: Found) -> None:
        name = entry.name
        if stat.S_ISLNK(info.external_attr >> 16):
            found.pass_over(name, "links")
        elif has_usual_suffix(name):
            found.entries.append(entry)
        elif is_index(name):
            found.indexes.append(entry)
        elif may_be_image(name, info.file_size) and self._looks_like_image(info):
            found.take(entry)
        else:
            found.pass_over(name)

    def _looks_like_image(self, info: zipfile.ZipInfo) -> bool:
        if info.file_size > MEMBER_BYTES:
            return False
        try:
            with self.archive.open(info) as stream:
                return looks_like_image(stream)
        except Exception:  # damaged, or packed by a method that Python does not know
            return False


def inside(info: zipfile.ZipInfo) -> tuple[str, bool]:
    """(a member's path with forward slashes, "" for none; whether it is a folder).

    Old packers of Windows write backslashes. Absolute paths and steps upwards lead nowhere here, as in every unpacker.
    Names that are UTF-8 without saying so are read as what they are.
    """
    name = info.filename
    if not info.flag_bits & UTF8 and not name.isascii():
        try:
            stored = name.encode("cp437")
            name = _unicode_path(info.extra, stored) or stored.decode("utf-8")
        except UnicodeError:  # written in cp437, as the standard has it, or decoded by another rule already
            name = info.filename
    name = name.replace("\\", "/")
    parts = [part for part in re.sub(r"^[A-Za-z]:(?=/)", "", name).split("/") if part not in ("", ".", "..")]
    return "/".join(parts), name.endswith("/") or bool(info.external_attr & DOS_FOLDER and not info.file_size)


def _unicode_path(extra: bytes, stored: bytes) -> str:
    """The name in Info-ZIP's extra field for Unicode paths, "" if there is none that belongs to the stored name."""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        content, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == UNICODE_PATH and size > 5 and content[1:5] == struct.pack("<I", zlib.crc32(stored)):
            return content[5:].decode("utf-8")
    return ""


def is_zip(path: Path) -> bool:
    """Whether a file is a .zip archive by its content."""
    try:
        with open(path, "rb") as stream:
            return stream.read(4) in (b"PK\3\4", b"PK\5\6") and zipfile.is_zipfile(path)
    except OSError:
        return False


def holds_arrays(path: Path) -> bool:
    """Whether an archive is a .npz under another name."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # damaged: said where it is opened
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)
