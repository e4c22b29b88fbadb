"""Sub-folders that are parts of a set, for training and for tests, as the field names them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from distgan.config import ConfigError
from distgan.kinds.base import some
from distgan.kinds.image.files import Entry

Placed = tuple[tuple[str, ...], Entry]
"""A file and the part of its path that tells classes."""

ROLES = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation", "holdout"),
}
ROLE = {word: role for role, words in ROLES.items() for word in words}
# train, Test, trainA, train2017, train_images, seg_test, images-val, trainset
NAME = re.compile(
    rf"(?:(?P<before>.+)[-_.])?(?P<word>(?i:{'|'.join(sorted(ROLE, key=len, reverse=True))}))"
    r"(?P<after>[A-Zab]|(?i:set|data|images|imgs)|[0-9]*(?:[-_. ].*)?)"
)


@dataclass(frozen=True)
class Part:
    """What a folder's name says: its role, and what is written around that word."""

    role: str
    before: str
    after: str

    @property
    def domain(self) -> str:
        """What tells folders of one role apart: A and B of trainA and trainB. Years and sizes do not."""
        return re.sub(r"^[-_. 0-9]+|[-_. ]+$", "", "_".join(filter(None, (self.before, self.after))))

    def goes_with(self, other: Part) -> bool:
        """Whether both are named in one manner: seg_train and seg_test, but not freight_train and crash_test."""
        mine, others = (re.sub(r"[0-9]+", "", part.after).lower() for part in (self, other))
        return self.before.lower() == other.before.lower() and (mine == others or not mine or not others)


def part_of(folder: str) -> Part | None:
    """The part that a folder's name means, or None."""
    match = NAME.fullmatch(folder)
    return match and Part(ROLE[match["word"].lower()], match["before"] or "", match["after"])


def are_parts(folders: set[str]) -> bool:
    """Whether some of these sub-folders are parts: one is for training, and another, named alike, is not."""
    parts = [part for part in map(part_of, folders) if part]
    return any(one.goes_with(other) for one in parts if one.role == "train" for other in parts if other.role != "train")


def choose_part(placed: list[Placed], split: str) -> tuple[list[Placed], list[str]]:
    """The files of the part that data.split asks for, their paths without it, and remarks. All of them where the
    sub-folders are no parts.

    Parts may lie above the classes (train/cat, test/cat) or below (cat/train, cat/test); trainA and trainB are two
    classes of one part. Raises ConfigError where there is no such part.
    """
    depth = _depth(placed)
    if depth is None:
        if split not in ("train", "all"):
            raise ConfigError(
                f"data.split = {split!r}: the data have no sub-folders train and test; point data.name at the part "
                "you want"
            )
        return placed, []
    known: list[tuple[Part, str, Placed]] = []
    beside: Counter[str] = Counter()
    for path, entry in placed:
        folder = path[depth] if len(path) > depth + 1 else ""
        part = part_of(folder) if folder else None
        if part is None:
            beside["/".join(path[: depth + 1] if folder else path[:-1]) or "the folder itself"] += 1
        else:
            known.append((part, folder, (path, entry)))
    folders = {folder: part for part, folder, _ in known}
    roles = {part.role for part in folders.values()}
    if split not in (*roles, "all"):
        raise ConfigError(
            f"data.split = {split!r}: the data have the parts {', '.join(sorted(roles))} (folders "
            f"{', '.join(sorted(folders))}); allowed: one of them, or all"
        )
    used = [item for item in known if split in ("all", item[0].role)]
    domains = {part.domain for part, _, _ in used}
    split_by_domain = depth == 0 and len(domains) > 1 and "" not in domains
    chosen = [
        (path[:depth] + ((part.domain,) if split_by_domain else ()) + path[depth + 1 :], entry)
        for part, _, (path, entry) in used
    ]
    remarks = [_remark(split, folders, Counter(part.role for part, _, _ in known), len(chosen), len(placed))]
    if beside:
        places = [f"{count:,} in {place}" for place, count in beside.items()]
        remarks.append(f"images beside the parts {', '.join(sorted(folders))} are left out: {some(places)}")
    return below_common(chosen), remarks


def below_common(placed: list[Placed]) -> list[Placed]:
    """Paths without the folders that all of them share."""
    depth = common_depth([path for path, _ in placed])
    return [(path[depth:], entry) for path, entry in placed]


def common_depth(paths: list[tuple[str, ...]]) -> int:
    """How many folders all files share."""
    depth = 0
    while paths and all(len(path) > depth + 1 and path[depth] == paths[0][depth] for path in paths):
        depth += 1
    return depth


def _depth(placed: list[Placed]) -> int | None:
    """At which level of the folders the parts are: 0, 1 (below the classes), or None."""
    if are_parts({path[0] for path, _ in placed if len(path) > 1}):
        return 0
    below: dict[str, set[str]] = {}
    for path, _ in placed:
        if len(path) > 2:
            below.setdefault(path[0], set()).add(path[1])
    split = {top for top, folders in below.items() if are_parts(folders)}
    inside = sum(path[0] in split for path, _ in placed)
    return 1 if split and 2 * inside >= len(placed) else None


def _remark(split: str, folders: dict[str, Part], counts: Counter[str], used: int, total: int) -> str:
    by_role = {
        role: ", ".join(sorted(folder for folder, part in folders.items() if part.role == role)) for role in counts
    }
    if split == "all":
        return f"all {used:,} images of the parts {', '.join(sorted(folders))} are used (data.split = all)"
    others = [f"{role} takes {count:,} ({by_role[role]})" for role, count in counts.items() if role != split]
    return (
        f"sub-folders are parts, not classes: {used:,} of {total:,} images are used, those of {by_role[split]} "
        f"(data.split = {split}; {', '.join(others)}, all takes {counts.total():,})"
    )
