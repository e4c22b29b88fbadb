"""dataset.json, as StyleGAN's dataset_tool.py writes it beside images: {"labels": [["00000/img00000000.png", 3], ...]},
or {"labels": null}. Beyond that, "classes": ["cat", ...] may name the labels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgan.config import ConfigError
from distgan.kinds.base import some
from distgan.kinds.image.files import Entry
from distgan.kinds.image.image_set import Labels
from distgan.kinds.image.labels import class_labels

FIX = "correct it, remove it, or set data.labels=false"


@dataclass(frozen=True)
class Named:
    """What dataset.json says of images: `labels[i]`, from 0 on, belongs to the i-th; None = they have no classes."""

    labels: list[int] | None
    classes: tuple[str, ...]
    used: tuple[str, ...]
    """The files dataset.json that were read."""
    remarks: tuple[str, ...] = ()


class DatasetJson:
    """The files dataset.json of a folder or archive. `path` is what data.name names."""

    def __init__(self, path: Path, files: Sequence[Entry], read: Callable[[Entry], bytes]) -> None:
        self.path, self.files, self.read = path, files, read

    def names(self, images: Sequence[Entry]) -> Named | None:
        """What they say of these images; None where there is none of them, or they are something else.

        One that lies above all images is meant; else each image's nearest, where all images have one: parts that are
        used together bring one each. Raises ConfigError for a damaged file, and for images that it does not name.
        """
        above = [file for file in self.files if all(image.name.startswith(_folder(file)) for image in images)]
        if above:
            top = min(above, key=lambda file: len(file.name))
            return self._join([(top, list(range(len(images))))], images)
        groups: dict[str, tuple[Entry, list[int]]] = {}
        for i, image in enumerate(images):
            near = [file for file in self.files if image.name.startswith(_folder(file))]
            if not near:
                return None
            file = max(near, key=lambda file: len(file.name))
            groups.setdefault(file.name, (file, []))[1].append(i)
        found = self._join(list(groups.values()), images)
        return found if found is not None and found.labels is not None else None

    def _join(self, groups: list[tuple[Entry, list[int]]], images: Sequence[Entry]) -> Named | None:
        values: list[Any] = [None] * len(images)
        contents = [self._load(file) for file, _ in groups]
        if any(content is None for content in contents):
            return None
        used = tuple(file.name for file, _ in groups)
        tables = [_table(content["labels"]) for content in contents if content is not None]
        if all(table is None for table in tables):
            return Named(None, (), used)
        names = [content.get("classes") for content in contents if content is not None]
        remarks: list[str] = []
        for (file, numbers), table in zip(groups, tables, strict=True):
            if table is None or any(other != names[0] for other in names):
                raise self._refusal(file, f"does not fit {used[0]}: both need labels, and the same classes")
            start = len(_folder(file))
            missing = [images[i].name for i in numbers if images[i].name[start:] not in table]
            if missing:
                few = f"{len(missing):,} of {len(numbers):,} images: {some(missing, 3)}"
                raise self._refusal(file, f"gives no label to {few}")
            for i in numbers:
                values[i] = table[images[i].name[start:]]
            if len(table) > len(numbers):
                there = {images[i].name[start:] for i in numbers}
                extra = [name for name in table if name not in there]
                remarks.append(
                    f"{file.name} names {len(extra):,} files that are not among the images: {some(extra, 3)}"
                )
        file = groups[0][0]
        try:
            labels, classes = (
                class_labels(_array(values), len(images)) if names[0] is None else _called(_array(values), names[0])
            )
        except ValueError as error:
            raise self._refusal(file, f"its labels {error}") from None
        return Named(labels.tolist(), classes, used, tuple(remarks))

    def _load(self, file: Entry) -> dict[str, Any] | None:
        """The content, None if it is not of this form."""
        try:
            content = json.loads(self.read(file))
        except (ValueError, RecursionError, OSError) as error:
            raise self._refusal(file, f"cannot be read as JSON ({error})") from None
        except Exception as error:  # what a damaged archive's reader raises
            raise self._refusal(file, f"cannot be read ({error})") from None
        if not isinstance(content, dict) or "labels" not in content:
            return None
        labels = content["labels"]
        if labels is None:
            return content
        if not isinstance(labels, list):
            return None
        pairs = [isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) for item in labels]
        if not all(pairs) and any(pairs):
            odd = f"{labels[pairs.index(False)]!r:.80}"
            raise self._refusal(file, f'has an item in "labels" that is no [name, label]: {odd}')
        return content if all(pairs) else None

    def _refusal(self, file: Entry, reason: str) -> ConfigError:
        return ConfigError(f"data.name = {self.path}: {file.name} {reason}; {FIX}")


def _folder(file: Entry) -> str:
    """The path that the names in it start from, "" or with a slash at its end."""
    return file.name[: file.name.rfind("/") + 1]


def _table(labels: Any) -> dict[str, Any] | None:
    if labels is None:
        return None
    return {name.replace("\\", "/").removeprefix("./"): value for name, value in labels}


def _array(values: list[Any]) -> NDArray[Any]:
    """One value an image as an array. ValueError for values of several kinds."""
    if any(isinstance(value, list) for value in values):
        if not all(isinstance(value, list) and len(value) == len(values[0]) for value in values):
            raise ValueError("are lists of several lengths; allowed: one whole number or text an image")
        if not all(isinstance(number, int | float) for value in values for number in value):
            raise ValueError("are lists that hold more than numbers; allowed: one whole number or text an image")
        return np.array(values, float if any(isinstance(x, float) for value in values for x in value) else None)
    kinds = {type(value) for value in values}
    if kinds - {int, float, str, bool} or (str in kinds and len(kinds) > 1):
        names = ", ".join(sorted(kind.__name__.replace("NoneType", "null") for kind in kinds))
        raise ValueError(f"are of the types {names}; allowed: whole numbers or text")
    try:
        return np.array(values, str if str in kinds else None)
    except OverflowError:
        raise ValueError("are too large for labels") from None


def _called(values: NDArray[Any], names: Any) -> tuple[Labels, tuple[str, ...]]:
    """The same as `class_labels`, where names[k] is the name of label k. ValueError where they do not fit."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError('have names ("classes") that are no list of texts')
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ValueError('are not whole numbers, which "classes" has names for')
    if values.min() < 0 or values.max() >= len(names):
        odd = values.min() if values.min() < 0 else values.max()
        raise ValueError(f'have no name for {odd}: "classes" names 0 to {len(names) - 1}')
    found, labels = np.unique(values, return_inverse=True)
    return labels.astype(np.int64).reshape(-1), tuple(names[value] for value in found)
