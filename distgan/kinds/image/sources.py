"""From data.name to the source it means."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from distgan.config import ConfigError, DataConfig
from distgan.kinds.image.image_set import Source
from distgan.registry import DATA_SETS


def source(config: DataConfig) -> Source:
    """The source that data.name means: a known set in any spelling, or a path."""
    known = _known(config.name)
    if known is not None:
        found: Source = DATA_SETS[known](config)
        return found
    path = Path(os.path.expanduser(config.name))
    what = "folder" if os.path.isdir(path) else _content(path) if os.path.isfile(path) else ""
    if what in ("folder", "zip"):
        from distgan.kinds.image.folder import FolderSource

        return FolderSource(config, path)
    if what == "array":
        from distgan.kinds.image.arrays import ArraySource

        return ArraySource(config, path)
    raise ConfigError(f"data.name = {config.name!r}: {_why_not(config.name, path)}")


def is_known(name: str) -> bool:
    """Whether data.name means a known set, in any spelling, and no path."""
    return _known(name) is not None


def hint(config: DataConfig) -> str:
    """What a person should know of a name that means two things, or ""."""
    known = _known(config.name)
    if known is None or not os.path.lexists(config.name):
        return ""
    from distgan.kinds.image.known import data_root

    if data_root(config) in Path(config.name).absolute().parents:  # the known set's own files
        return ""
    what = "folder" if os.path.isdir(config.name) else "file"
    return f"the known set {known} is read; for your own {what} of that name give ./{config.name}"


def _content(path: Path) -> str:
    """What a file holds, as its ending says, or its first bytes where that says nothing: zip, array, or ""."""
    from distgan.kinds.image.archives import holds_arrays, is_zip
    from distgan.kinds.image.headers import SUFFIXES

    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return "array"
    if suffix in SUFFIXES:
        return ""
    if is_zip(path):
        return "array" if holds_arrays(path) else "zip"
    if suffix == ".zip":
        return "zip"  # a damaged one, which is said where it is opened
    return "array" if _begins(path, b"\x93NUMPY") else ""


def _begins(path: Path, mark: bytes) -> bool:
    try:
        with open(path, "rb") as stream:
            return stream.read(len(mark)) == mark
    except OSError:
        return False


def _known(name: str) -> str | None:
    return {_plain(known): known for known in DATA_SETS}.get(_plain(name))


def _why_not(name: str, path: Path) -> str:
    from distgan.kinds.image.headers import SUFFIXES

    known = f"a known set ({', '.join(DATA_SETS)}), or the path of a folder of images, .zip, .npy or .npz"
    if os.path.isfile(path):
        if path.suffix.lower() in SUFFIXES:
            return f"is a single image; training needs many. Give the folder that holds them, for example {path.parent}"
        if re.search(r"\.(tar|tgz|rar|7z|gz|xz|bz2)\b", path.name.lower()):
            return "archives of this type are not read; unpack it and give the folder, or pack the images as .zip"
        return f"files of type {path.suffix or '(no suffix)'} are not read; allowed: {known}"
    if os.path.lexists(path):
        what = "is no file or folder" if os.path.exists(path) else "is a link that leads nowhere"
        return f"{what}; allowed: {known}"
    if "/" in name or "\\" in name or path.suffix:
        folder = path.parent
        siblings = [entry.name for entry in folder.iterdir()] if os.path.isdir(folder) else []
        near = difflib.get_close_matches(path.name, siblings, 1)
        where = (
            f"; did you mean {folder / near[0]}?"
            if near
            else ("" if os.path.isdir(folder) else f" ({folder} does not exist either)")
        )
        return f"no such file or folder{where}; allowed: {known}"
    near = difflib.get_close_matches(_plain(name), [_plain(known_name) for known_name in DATA_SETS], 1, 0.5)
    spelled = {_plain(known_name): known_name for known_name in DATA_SETS}
    hint = f"; did you mean {spelled[near[0]]}?" if near else ""
    return f"neither a known set nor a path that exists{hint}; allowed: {known}"


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())
