"""The classes that sub-folders make, and the sub-folders that make none."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from distgan.kinds.base import some
from distgan.kinds.image.files import Entry
from distgan.kinds.image.parts import Placed

# Sub-folders of images with targets for them: pictures too, but not what is to be learnt.
IMAGES = frozenset(("images", "image", "imgs", "img", "jpegimages", "leftimg8bit"))
MASKS = frozenset(("masks", "mask", "labels", "label", "annotations", "gt", "ground_truth", "groundtruth", "mattes"))
MASKS |= {"gtfine", "gtcoarse", "segmentationclass", "segmentationobject"}


@dataclass(frozen=True)
class Listing:
    """Image files and their classes. `label_of[i]` belongs to `entries[i]`; None without classes."""

    entries: list[Entry]
    label_of: list[int] | None
    classes: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def without_masks(placed: list[Placed]) -> tuple[list[Placed], list[str]]:
    """The images alone, where all sub-folders are images and masks for them."""
    tops = Counter(path[0] if len(path) > 1 else "" for path, _ in placed)
    pictures = [top for top in tops if top.lower() in IMAGES]
    masks = [top for top in tops if top.lower() in MASKS]
    if not pictures or not masks or len(pictures) + len(masks) < len(tops):
        return placed, []
    kept = [(path, entry) for path, entry in placed if path[0] in pictures]
    left = ", ".join(f"{tops[mask]:,} in {mask}" for mask in masks)
    return kept, [f"images of {', '.join(pictures)} are used; their masks are left out ({left})"]


def by_folder(placed: list[Placed]) -> Listing:
    """At least two sub-folders and no image beside them make classes, but not numbered shards."""
    placed = sorted(placed, key=lambda pair: (pair[0], pair[1].name, pair[1].member))
    entries = [entry for _, entry in placed]
    names = sorted({path[0] for path, _ in placed if len(path) > 1})
    if len(names) < 2 or any(len(path) == 1 for path, _ in placed):
        return Listing(entries, None, ())
    row = numbering(placed)
    if row == "shards":
        remark = (
            f"the {len(names):,} sub-folders {names[0]} to {names[-1]} are shards of one numbered row of images, and "
            "no classes (where they are, give them names that are not numbers)"
        )
        return Listing(entries, None, (), (remark,))
    remarks = []
    if row == "in a row":
        remarks.append(
            f"the sub-folders {names[0]} to {names[-1]} are taken for classes, though their images are numbered in one "
            "row; where they are shards, set data.labels=false"
        )
    number = {name: label for label, name in enumerate(names)}
    alike = list(_alike(names))
    if alike:
        remarks.append(f"classes with almost the same name: {some(alike, 3)}")
    return Listing(entries, [number[path[0]] for path, _ in placed], tuple(names), tuple(remarks))


def dealt(listing: Listing) -> Listing:
    """The same with one file of each class in turn, so that the first so many (data.limit) show them all."""
    if listing.label_of is None:
        return listing
    turn: Counter[int] = Counter()
    order = []
    for i, label in enumerate(listing.label_of):
        order.append((turn[label], label, i))
        turn[label] += 1
    order.sort()
    return Listing(
        [listing.entries[i] for *_, i in order], [label for _, label, _ in order], listing.classes, listing.remarks
    )


def numbering(placed: Sequence[Placed]) -> Literal["shards", "in a row", ""]:
    """Whether sub-folders are shards: numbers with zeros in front, from which those of their files follow.

    Shard k of 1,000 holds the images k000 to k999 (StyleGAN: 00000, 00001, ...; FFHQ: 00000, 01000, ...), or those
    whose number ends in k (Danbooru); ab holds the hashes that begin with ab. Classes may be called 00, 01, ... too:
    there each has numbers of its own, or as many as it happens to have ("in a row").
    """
    if all(re.fullmatch(r"[0-9a-f]{1,3}", path[0]) and _is_hash(path[-1], path[0]) for path, _ in placed):
        return "shards"
    files: dict[str, list[int]] = {}
    for path, _ in placed:
        last = re.findall(r"[0-9]+", path[-1].rpartition(".")[0] or path[-1])
        if not last or not re.fullmatch(r"[0-9]{2,18}", path[0]):
            return ""
        files.setdefault(path[0], []).append(int(last[-1][-18:]))
    folders = sorted(files)
    if len({len(folder) for folder in folders}) > 1 or not folders[0].startswith("0"):
        return ""
    if _by_last_digits(files, len(folders[0])):
        return "shards"
    ends = [(min(files[folder]), max(files[folder])) for folder in folders]
    if any(low <= high for (_, high), (low, _) in pairwise(ends)):
        return ""
    return "shards" if _of_one_size([int(folder) for folder in folders], ends) else "in a row"


def _of_one_size(folders: list[int], ends: list[tuple[int, int]]) -> bool:
    """Whether there is a size S of shards such that the k-th begins at k S, files and folders counted from 0 or 1."""
    step = folders[1] - folders[0]
    if any(after - before != step for before, after in pairwise(folders)):
        return False
    for first in (0, 1):
        for origin in (0, 1):
            rows = [
                ((folder - first * step) // step, low - origin, high - origin)
                for folder, (low, high) in zip(folders, ends, strict=True)
            ]
            if any(k < 0 or low < 0 for k, low, _ in rows):
                continue
            at_least = max(high // (k + 1) + 1 for k, _, high in rows)
            at_most = min((low // k for k, low, _ in rows if k > 0), default=at_least)
            if at_least <= at_most:
                return True
    return False


def _by_last_digits(files: dict[str, list[int]], width: int) -> bool:
    largest = max(map(max, files.values()))
    for modulus in (10**digits for digits in range(1, width + 1)):
        if largest >= modulus and all(n % modulus == int(folder) for folder, own in files.items() for n in own):
            return True
    return False


def _is_hash(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and re.fullmatch(r"[0-9a-f]{16,}", name.partition(".")[0]) is not None


def _alike(names: Iterable[str]) -> Iterable[str]:
    """Names that a person would take for one: they differ in case, blanks, or the way that accents are written."""
    groups: dict[str, list[str]] = {}
    for name in names:
        plain = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()
        groups.setdefault(plain, []).append(name)
    return (" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1)
